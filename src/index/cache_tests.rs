//! The cache stays within its budget, under any reads, at a cost that does not depend on the
//! number of keys.

use super::*;
use crate::record::RecordParts;
use crate::state::Lifetime;

fn digest(key: u64) -> Digest {
    Digest::from_u128(key.wrapping_mul(0x9e37_79b9_7f4a_7c15).into())
}

fn record(key: u64, len: usize, place: Option<RecordLocation>) -> Record {
    let end = Timestamp::from_millis(9_000);
    let lifetime = Lifetime { expires: end, remembered_until: end };
    let body = vec![1; len];
    let parts = RecordParts { digest: digest(key), lifetime, body: &body, ..RecordParts::example(key) };
    Record::new(&parts, place)
}

fn place(key: u64) -> RecordLocation {
    RecordLocation::new(key + 1, 0)
}

/// So many keys in one shard, all only on disk.
fn stored(keys: u64, budget: usize) -> Index {
    let index = Index::new(1, budget, Timestamp::default());
    let until = SlotTime::new(Timestamp::from_millis(9_000), Timestamp::default());
    for key in 0..keys {
        index.change(digest(key), |_| (Change::Set(Slot::Stored { until, place: place(key) }), ()));
    }
    index
}

fn read(index: &Index, key: u64, len: usize) {
    index.cache(digest(key), &record(key, len, Some(place(key))));
}

/// The shard's counts and lists match its slots.
#[track_caller]
fn assert_consistent(index: &Index) {
    let shard = index.shards[0].read();
    let (mut bytes, mut cached) = (0, 0);
    let whole = shard.walk(WalkPlace::default(), usize::MAX, |digest, slot| {
        bytes += slot.cached_bytes();
        if let Slot::Cached(_, position) = slot {
            cached += 1;
            assert!(shard.is_seated(digest, *position));
        }
    });
    assert!(whole.is_none());
    assert_eq!((bytes, cached), (shard.cached_bytes(), shard.cached()));
}

/// A shard of an engine with default options, 4 M small keys and 12,000 bodies of 250 KB.
#[test]
fn long_bodies_read_among_many_short_keys_stay_within_the_cache() {
    let budget = (64 << 20) / 64;
    let index = stored(62_500, budget);
    for key in 0..188 {
        read(&index, key, 250_000);
        assert!(index.sizes().cached_bytes <= budget, "after {key} reads {}", index.sizes().cached_bytes);
    }
    assert!(index.sizes().cached_bytes > budget / 2, "it is made use of");
    assert_consistent(&index);
}

#[test]
fn whatever_lengths_are_read_the_cache_is_kept_after_each_read() {
    let budget = 100_000;
    for keys in [1, 50, 3_000, 40_000] {
        let index = stored(keys, budget);
        let mut random = 1_u64;
        for _ in 0..4_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = (random >> 33) % keys;
            // From nothing to nearly all of the budget, and more.
            let len = 1 << ((key * 7 + 3) % 18);
            read(&index, key, len);
            assert!(index.sizes().cached_bytes <= budget, "{keys} keys");
            if random >> 60 == 0 {
                // Asked for again.
                drop(index.replay(digest(key), |_| true));
            }
        }
        assert_consistent(&index);
    }
}

#[test]
fn what_a_read_evicts_costs_the_same_however_many_keys_there_are() {
    let looks = |keys: u64| {
        let index = stored(keys, 50_000);
        let mut all = Vec::new();
        for key in 0..400 {
            read(&index, key, if key % 40 == 0 { 30_000 } else { 100 });
            all.push(index.shards[0].read().looks);
        }
        all
    };
    let few = looks(400);
    assert_eq!(few, looks(60_000));
    // Those that are spared, and those that make room for twice its bytes.
    let room = 2 * record(0, 30_000, None).footprint() / record(0, 100, None).footprint();
    let most = few.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(most > 64 && most <= 2 * (64 + 1) + room + 1, "{most} of at most {room}");
}

#[test]
fn records_that_no_checkpoint_stored_stay_and_cost_evictions_nothing() {
    let index = stored(10, 5_000);
    let unstored: Vec<_> = (100..3_100).map(|key| record(key, 100, None)).collect();
    for record in &unstored {
        index.change(record.digest(), |_| (Change::Set(Slot::cached(record.clone())), ()));
    }
    let bytes = index.sizes().cached_bytes;
    for key in 0..10 {
        read(&index, key, 100);
    }
    let looks = index.shards[0].read().looks;
    assert!(looks <= 40, "{looks} looks for ten records that were read");
    assert_eq!(index.sizes().cached_bytes, bytes, "what is stored made room, as far as it could");
    index.evict();
    assert_eq!(index.sizes().cached_bytes, bytes);
    assert_consistent(&index);
    // A checkpoint stores two thirds of them.
    for (record, key) in unstored.iter().zip(100..).filter(|(_, key)| key % 3 > 0) {
        record.set_location(place(key));
    }
    index.evict();
    assert_eq!(index.sizes().cached_bytes, bytes / 3);
    assert_consistent(&index);
    for record in &unstored {
        record.set_location(place(1));
    }
    index.evict();
    assert!(index.sizes().cached_bytes <= 5_000);
    assert_consistent(&index);
}

#[test]
fn a_tombstone_that_took_the_seat_of_a_stored_record_is_not_evicted_before_it_is_stored() {
    let index = stored(2, 1_000);
    read(&index, 0, 300);
    let tombstone = record(0, 300, Some(place(0))).without_body();
    assert_eq!(index.pin_in_memory(place(0), &tombstone), crate::record::Relocation::Moved);
    for _ in 0..3 {
        read(&index, 1, 700);
        let until = SlotTime::new(Timestamp::default(), Timestamp::default());
        index.change(digest(1), |_| (Change::Set(Slot::Stored { until, place: place(1) }), ()));
    }
    assert!(matches!(index.get(digest(0)), Slot::Cached(..)));
    assert_consistent(&index);
    tombstone.set_location(place(5));
    index.drop_cached(&tombstone);
    assert!(matches!(index.get(digest(0)), Slot::Stored { place: now, .. } if now == place(5)));
    assert_consistent(&index);
}

/// A checkpoint has pinned what its merged blocks held, and there is no room in memory.
#[test]
fn tombstones_that_took_the_seats_of_stored_records_are_passed_some_under_each_lock() {
    const KEYS: u64 = 1_000;
    let index = stored(KEYS, 1 << 20);
    (0..KEYS).for_each(|key| read(&index, key, 300));
    for key in 0..KEYS {
        let moving = record(key, 300, Some(place(key))).to_be_moved();
        assert_eq!(index.pin_in_memory(place(key), &moving), crate::record::Relocation::Moved);
    }
    let mut shard = index.shards[0].change(std::mem::take);
    let mut calls = 0;
    let mut looks = shard.looks;
    while shard.evict(0, Timestamp::default()).is_some() {
        let by = shard.looks - looks;
        assert!(by <= 256, "{by} looks under one lock");
        looks = shard.looks;
        calls += 1;
    }
    assert!(calls >= KEYS / 256, "{calls}");
}

#[test]
fn keys_that_come_and_go_leave_no_seat_behind() {
    let index = Index::new(1, 1 << 20, Timestamp::default());
    for round in 0..50 {
        for key in 0..2_000 {
            let stored = (key % 2 == 0).then(|| place(key));
            index.change(digest(key), |_| (Change::Set(Slot::cached(record(key, 10, stored))), ()));
        }
        for key in (round % 7..2_000).step_by(3) {
            index.change(digest(key), |_| (Change::Set(Slot::Vacant), ()));
        }
        assert_consistent(&index);
    }
    let bytes = index.sizes().table_bytes;
    for key in 0..2_000 {
        index.change(digest(key), |_| (Change::Set(Slot::Vacant), ()));
    }
    (0..4_000).step_by(CELLS_PER_STEP).for_each(|at| drop(index.sweep(0, at, Timestamp::default())));
    assert_consistent(&index);
    assert!(index.sizes().table_bytes < bytes / 2, "lists give memory back, too");
}

/// The store that has it is no file of this process, so nothing here could say where it lies.
#[cfg(feature = "postgres")]
#[test]
fn a_record_of_another_store_leaves_nothing_behind() {
    use std::cell::Cell;

    let budget = 8 * 1_024;
    let index = Index::new(1, budget, Timestamp::default());
    for key in 0..1_000 {
        let record = record(key, 100, None);
        index.cache_elsewhere(&record, || true);
        assert!(index.replay(digest(key), |_| true).is_some_and(|found| found.fence() == record.fence()));
        assert_consistent(&index);
        let sizes = index.sizes();
        assert!(sizes.cached_bytes <= budget);
        assert_eq!(sizes.keys, sizes.cached_bytes / record.footprint());
    }
    assert!(index.sizes().keys > 10);
    let asked = Cell::new(false);
    index.cache_elsewhere(&record(1_000, 100, None), || asked.replace(true));
    assert!(asked.get() && index.replay(digest(1_000), |_| true).is_none());
    index.clear();
    assert_eq!((index.sizes().keys, index.sizes().cached_bytes), (0, 0));
    assert_consistent(&index);
}
