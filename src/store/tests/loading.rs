//! Loading the index at an opening.

use super::*;
use crate::sync::without_threads;

#[test]
fn a_read_that_fails_in_one_of_the_threads_that_load_fails_the_opening() {
    const KEYS: u64 = 300;
    let disk = SimDisk::new();
    let store = new_store(&disk);
    for n in 1..=KEYS {
        // A block for each, so that there are many rows to be read.
        stored(&store, n);
    }
    store.close().unwrap();
    drop(store);
    let mut failed = 0;
    for number in 0.. {
        let store = Store::open(&disk, path(), |_| 64 << 10, |_| false).unwrap();
        disk.fail_read(disk.reads() + number);
        let mut keys = [0; 3];
        let takers = keys.iter_mut().map(|keys| |found: &[Stored]| *keys += found.len()).collect();
        let loaded = store.load(takers, |_| (), |_, _| ());
        disk.mend();
        match loaded {
            Err(OpenError::Io(_)) => failed += 1,
            Err(other) => panic!("read {number}: {other}"),
            Ok(()) => {
                assert_eq!(keys, [300; 3], "read {number} failed in one thread, and nobody was told");
                break;
            }
        }
    }
    assert!(failed > 5, "{failed} reads");
}

/// The system may refuse threads to a container that has many.
#[test]
fn where_no_thread_can_be_started_the_opening_thread_loads_in_place_of_all() {
    let store = new_store(&SimDisk::new());
    (1..=300).for_each(|n| drop(stored(&store, n)));
    let mut keys = [0; 3];
    let takers = keys.iter_mut().map(|keys| |found: &[Stored]| *keys += found.len()).collect();
    let mut loaded = None;
    without_threads(|| loaded = Some(store.load(takers, |_| (), |_, _| ())));
    loaded.unwrap().unwrap();
    assert_eq!(keys, [300; 3]);
}

/// The index makes room for them before it has seen one.
#[test]
fn a_file_says_no_more_keys_than_it_has_room_for() {
    let store = new_store(&SimDisk::new());
    store.meta.lock().keys = u64::MAX;
    assert!(store.keys_hint() < 1 << 20, "{} keys", store.keys_hint());
}

#[test]
fn a_damaged_index_row_is_found_by_each_thread_that_loads() {
    const ROWS: usize = 7;
    let store = new_store(&SimDisk::new());
    (1..=ROWS as u64).for_each(|n| drop(stored(&store, n)));
    // Of an offset, so that it decodes.
    let flip = |at: usize| {
        alter(&store, |transaction| {
            let mut table = transaction.open_table(INDEX.definition).unwrap();
            let (key, mut row) = {
                let (key, row) = table.iter().unwrap().nth(at).unwrap().unwrap();
                (key.value(), row.value().to_vec())
            };
            *row.last_mut().unwrap() ^= 1;
            table.insert(key, row.as_slice()).unwrap();
        });
    };
    // With what each thread was given.
    let load = |threads| {
        let mut given = vec![0; threads];
        let takers = given.iter_mut().map(|given| |found: &[Stored]| *given += found.len()).collect();
        let loaded = store.load(takers, |_| (), |_, _| ());
        (loaded, given)
    };
    for (row, threads) in (0..ROWS).flat_map(|row| (1..=4).map(move |threads| (row, threads))) {
        flip(row);
        let (loaded, given) = load(threads);
        let is_it = |damage: &Damage| damage.place().starts_with("table `index`, row");
        assert!(matches!(&loaded, Err(OpenError::Damaged(damage)) if is_it(damage)), "{loaded:?}");
        assert_eq!(given, vec![0; threads], "row {row}: each of them looks itself");
        flip(row);
        let (loaded, given) = load(threads);
        loaded.unwrap();
        assert_eq!(given, vec![ROWS; threads]);
    }
}

#[test]
fn records_are_handed_over_some_hundred_at_a_time_and_all_of_them() {
    let store = new_store(&SimDisk::new());
    let records: Vec<_> = (1..=2_000).map(record).collect();
    apply(&store, &Batch { records, ..Batch::default() }, NOW, true).unwrap();
    let (mut keys, mut calls) = (Vec::new(), 0);
    let taker = |found: &[Stored]| {
        calls += 1;
        keys.extend(found.iter().map(|stored| stored.digest.as_u128()));
    };
    store.load(vec![taker], |_| (), |_, _| ()).unwrap();
    keys.sort_unstable();
    assert_eq!(keys, (1..=2_000).collect::<Vec<u128>>());
    assert!((3..10).contains(&calls), "{calls} calls");
}
