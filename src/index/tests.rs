//! The index: what it caches, evicts, moves and sweeps.

use super::*;
use crate::Timestamp;
use crate::attempt::AttemptParts;
use crate::record::RecordParts;
use crate::state::Phase;

const KEY: Digest = Digest::from_u128(7);

fn record(place: Option<RecordLocation>) -> Record {
    Record::new(&RecordParts::example(1), place)
}

fn attempt() -> Arc<Attempt> {
    Arc::new(Attempt::new(AttemptParts::example(2)))
}

fn from() -> RecordLocation {
    RecordLocation::new(3, 4)
}

fn index_of(slot: Slot) -> Index {
    let index = Index::new(1, 0, Timestamp::default());
    index.change(KEY, |_| (Change::Set(slot), ()));
    index
}

#[test]
fn all_claims_that_are_out_are_found_beside_interrupted_keys() {
    let index = Index::new(1, 0, Timestamp::default());
    let slots = [
        Slot::Interrupted(attempt()),
        Slot::InFlight(attempt()),
        Slot::cached(record(None)),
        Slot::Interrupted(attempt()),
        Slot::Ending(attempt()),
        Slot::InFlight(attempt()),
    ];
    for (slot, key) in slots.into_iter().zip(1..) {
        index.change(Digest::from_u128(key), |_| (Change::Set(slot), ()));
    }
    assert_eq!((index.attempts_out().len(), index.count_out(|_| true)), (3, 3));
    assert_eq!(index.count_out(|slot| matches!(slot, Slot::Ending(_))), 1);
    let mut open = 0;
    index.for_each_open(|_| open += 1);
    assert_eq!(open, 5);
}

#[test]
fn a_tombstone_takes_the_place_of_its_record_and_of_nothing_else() {
    let tombstone = record(Some(from())).without_body();
    let until = SlotTime::new(tombstone.remembered_until(), Timestamp::default());
    let is_lifted = |index: &Index| matches!(index.get(KEY), Slot::Cached(now, _) if !now.is_body_kept());
    for slot in [Slot::Stored { until, place: from() }, Slot::cached(record(Some(from())))] {
        let index = index_of(slot);
        assert!(index.pin_in_memory(from(), &tombstone) == Relocation::Moved && is_lifted(&index));
        // Nothing on disk has it yet, so it can't be evicted.
        index.evict();
        assert!(is_lifted(&index));
    }
    let elsewhere = RecordLocation::new(9, 9);
    for slot in [
        Slot::Stored { until, place: elsewhere },
        Slot::cached(record(Some(elsewhere))),
        Slot::cached(record(None)),
        Slot::InFlight(attempt()),
    ] {
        let index = index_of(slot);
        assert!(index.pin_in_memory(from(), &tombstone) == Relocation::History && !is_lifted(&index));
    }
    tombstone.set_location(elsewhere);
    let index = index_of(Slot::cached(tombstone.clone()));
    index.drop_cached(&tombstone);
    assert!(matches!(index.get(KEY), Slot::Stored { place, .. } if place == elsewhere));
    // Memory has the only copy of these.
    for slot in [Slot::cached(record(None)), Slot::cached(record(Some(from()))), Slot::InFlight(attempt())] {
        let index = index_of(slot);
        index.drop_cached(&tombstone);
        index.drop_cached(&record(None));
        assert!(!matches!(index.get(KEY), Slot::Stored { .. } | Slot::Vacant));
    }
}

#[test]
fn the_attempts_that_are_out_are_those_in_flight_and_ending() {
    let index = Index::new(4, 0, Timestamp::default());
    let slots = [
        Slot::InFlight(attempt()),
        Slot::Ending(attempt()),
        Slot::Interrupted(attempt()),
        Slot::cached(record(None)),
    ];
    let out: Vec<_> = slots.iter().filter_map(|slot| slot.attempt().cloned()).take(2).collect();
    for (key, slot) in slots.into_iter().enumerate() {
        index.change(Digest::from_u128(key as u128), |_| (Change::Set(slot), ()));
    }
    let found = index.attempts_out();
    assert_eq!(found.len(), 2);
    assert!(found.iter().zip(&out).all(|(found, expected)| Arc::ptr_eq(found, expected)));
}

#[test]
fn a_record_that_was_read_is_kept_only_where_it_still_lies_and_has_room() {
    let read = record(Some(from()));
    let until = SlotTime::new(read.expires(), Timestamp::default());
    let elsewhere = RecordLocation::new(9, 9);
    let is_kept = |place, budget| {
        let index = Index::new(1, budget, Timestamp::default());
        index.change(KEY, |_| (Change::Set(Slot::Stored { until, place }), ()));
        index.cache(KEY, &read);
        matches!(index.get(KEY), Slot::Cached(..))
    };
    assert!(is_kept(from(), read.footprint()));
    assert!(!is_kept(from(), read.footprint() - 1));
    assert!(!is_kept(elsewhere, read.footprint()), "it is another record's place by now");
}

#[test]
fn a_sweep_goes_in_steps_and_gives_memory_back_at_the_end_of_a_shard() {
    let index = Index::new(1, 0, Timestamp::default());
    let (early, late) = (Timestamp::from_millis(1_000), Timestamp::from_millis(100_000));
    let digest = |key: u64| Digest::from_u128(key.wrapping_mul(0x9e37_79b9_7f4a_7c15).into());
    let keys = 3 * CELLS_PER_STEP as u64;
    for key in 0..keys {
        let until = SlotTime::new(if key < 100 { late } else { early }, index.epoch());
        index.change(digest(key), |_| (Change::Set(Slot::Stored { until, place: from() }), ()));
    }
    let bytes = index.sizes().table_bytes;
    let mut at = 0;
    while !index.sweep(0, at, early).done {
        assert_eq!(index.sizes().table_bytes, bytes, "cells keep their numbers until the pass is over");
        at += CELLS_PER_STEP;
    }
    assert!(at > 2 * CELLS_PER_STEP);
    // What a removal moved to where the pass had been is left to the next ones.
    while index.sweep(0, 0, early).removed > 0 {}
    assert_eq!(index.sizes().keys, 100);
    assert!(index.sizes().table_bytes < bytes / 4);
    (0..100).for_each(|key| assert!(matches!(index.get(digest(key)), Slot::Stored { .. }), "key {key}"));
    assert!(
        index.sweep(1, 0, late).done && index.snapshot(1, WalkPlace::default()).0.is_empty(),
        "there is no such shard"
    );
}

#[test]
fn an_eviction_takes_what_was_not_asked_for_first() {
    let digests = [Digest::from_u128(1 << 64), Digest::from_u128(2 << 64)];
    for unwanted in digests {
        let index = Index::new(1, record(None).footprint(), Timestamp::default());
        for digest in digests {
            // A new record counts as asked for.
            let record = record(Some(from()));
            assert!(digest != unwanted || record.take_touch());
            index.change(digest, |_| (Change::Set(Slot::cached(record)), ()));
        }
        index.evict();
        let is_kept = |digest: Digest| matches!(index.get(digest), Slot::Cached(..));
        assert!(digests.iter().all(|digest| is_kept(*digest) == (*digest != unwanted)));
    }
}

#[test]
fn an_eviction_finds_every_record_in_a_table_that_is_nearly_empty() {
    let index = Index::new(1, 0, Timestamp::default());
    let digest = |key: u64| Digest::from_u128(key.wrapping_mul(0x9e37_79b9_7f4a_7c15).into());
    let until = SlotTime::new(Timestamp::default(), index.epoch());
    for key in 0..6 * CELLS_PER_STEP as u64 {
        index.change(digest(key), |_| (Change::Set(Slot::Stored { until, place: from() }), ()));
    }
    let kept = 50;
    for key in 0..kept {
        // A new record counts as asked for.
        index.change(digest(key), |_| (Change::Set(Slot::cached(record(Some(from())))), ()));
    }
    for key in kept..6 * CELLS_PER_STEP as u64 {
        index.change(digest(key), |_| (Change::Set(Slot::Vacant), ()));
    }
    assert!(index.sizes().cached_bytes > 0);
    index.evict();
    assert_eq!(index.sizes().cached_bytes, 0);
}

/// A forget that fails restores the slot, with its old location.
#[test]
fn a_record_that_is_being_forgotten_holds_its_block() {
    let index = index_of(Slot::Ending(attempt()));
    assert_eq!(index.pin_in_memory(from(), &record(None)), Relocation::Stays);
    assert_eq!(index.get(KEY).phase(), Phase::Ending);
}

/// Callers of the shard wait meanwhile. Each took a lock for the whole shard: a millisecond for
/// 150,000 keys.
#[test]
fn no_list_holds_a_lock_for_more_than_a_step() {
    const KEYS: u64 = 20_000;
    let index = Index::new(1, 0, Timestamp::default());
    let until = SlotTime::new(Timestamp::from_millis(1_000), Timestamp::default());
    for key in 0..KEYS {
        let half = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let slot = match key % 1_000 {
            0 => Slot::InFlight(attempt()),
            1 => Slot::Interrupted(attempt()),
            _ => Slot::Stored { until, place: from() },
        };
        index.change(Digest::from_u128(half.into()), |_| (Change::Set(slot), ()));
    }
    let visited_max = || index.shards[0].visited_max.swap(0, Ordering::Relaxed);
    let is_a_step = |visited: usize| visited > CELLS_PER_STEP / 2 && visited <= CELLS_PER_STEP + 200;
    assert_eq!(index.attempts_out().len(), 20);
    assert!(is_a_step(visited_max()));
    assert_eq!(index.count_out(|_| true), 20);
    assert!(is_a_step(visited_max()));
    let mut open = 0;
    index.for_each_open(|_| open += 1);
    assert!(open == 40 && is_a_step(visited_max()));
    let (mut entries, mut place) = (0, Some(WalkPlace::default()));
    while let Some(from) = place {
        let (slots, next) = index.snapshot(0, from);
        assert!(slots.len() <= CELLS_PER_STEP + 200);
        (entries, place) = (entries + slots.len() as u64, next);
    }
    assert!(entries == KEYS && is_a_step(visited_max()));
}
