//! Models of a thread's copy of a record, and of its counts.

use super::*;

/// The fence of a record of which a thread keeps a copy.
fn asks(hot: &mut ThreadCache, index: &Index) -> Option<u64> {
    let digest = RecordParts::example(0).digest;
    hot.replay(index, digest, &|_: &Record| true).map(|record| record.fence().get())
}

/// The fence of the record that the index has.
fn looks(index: &Index) -> Option<u64> {
    match index.get(RecordParts::example(0).digest) {
        Slot::Cached(record, _) => Some(record.fence().get()),
        _ => None,
    }
}

fn becomes(index: &Index, slot: Slot) {
    index.change(RecordParts::example(0).digest, |_| (Change::Set(slot), ()));
}

fn durable(fence: u64) -> Slot {
    Slot::cached(Record::new(&RecordParts::example(fence), Some(RecordLocation::new(1, 0))))
}

#[test]
fn a_thread_that_keeps_a_record_sees_every_change_that_it_could_know_of() {
    model("hot_key", None, || {
        let shared = Arc::new((Index::new(1, 0, Timestamp::default()), AtomicUsize::new(0)));
        becomes(&shared.0, durable(1));
        let theirs = Arc::clone(&shared);
        let other = spawn(move || {
            becomes(&theirs.0, Slot::Vacant);
            theirs.1.store(1, Ordering::Release);
            becomes(&theirs.0, durable(2));
            theirs.1.store(2, Ordering::Release);
        });
        // How far the key has come: the first record, none, the second one.
        let step = |fence: Option<u64>| fence.map_or(1, |fence| 2 * (fence as usize - 1));
        let mut hot = ThreadCache::new();
        let mut last = 0;
        let sees = |last: &mut usize, how: &str, seen: usize| {
            assert!(seen >= *last, "{how}: {seen} after {last}");
            *last = seen;
        };
        // The first one keeps a copy, and the second one is answered from it, before, between or
        // after the changes.
        for _ in 0..2 {
            sees(&mut last, "by the copy", step(asks(&mut hot, &shared.0)));
            let told = shared.1.load(Ordering::Acquire);
            last = last.max(told);
            sees(&mut last, "by the lock", step(looks(&shared.0)));
        }
        sees(&mut last, "by the copy", step(asks(&mut hot, &shared.0)));
        other.join().unwrap();
        assert_eq!(asks(&mut hot, &shared.0), Some(2));
    });
}

#[test]
fn replays_of_kept_records_are_all_counted_though_a_tally_changes_hands() {
    model("tallies", None, || {
        let index = Arc::new(Index::new(1, 0, Timestamp::default()));
        becomes(&index, durable(1));
        let replays = |index: Arc<Index>| {
            spawn(move || {
                let mut hot = ThreadCache::new();
                (0..3).for_each(|_| assert_eq!(asks(&mut hot, &index), Some(1)));
            })
        };
        let others = [replays(Arc::clone(&index)), replays(Arc::clone(&index))];
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(index.hits().replayed, 6);
    });
}
