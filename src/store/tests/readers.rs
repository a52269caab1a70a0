//! Readers while the database stops and is opened again.

use super::*;

#[test]
fn whoever_finds_the_database_stopped_takes_the_view_that_another_has_opened_meanwhile() {
    let disk = SimDisk::new();
    let store = new_store(&disk);
    let tries = Cell::new(0);
    let reads = Cell::new(0);
    let read = store.access.read(|database| {
        tries.set(tries.get() + 1);
        if tries.get() == 1 {
            stop(&store);
            reads.set(disk.reads());
            return Err(broken());
        }
        assert_eq!(disk.reads(), reads.get(), "the view is not opened twice");
        read_meta(path(), database).map_err(|_error| broken())
    });
    assert_eq!((read.unwrap(), tries.get()), (meta(), 2));
}

/// The next database may have written where the old one has its pages.
#[test]
fn damage_in_a_database_that_is_no_longer_in_use_is_asked_again_in_the_next() {
    let store = new_store(&SimDisk::new());
    let damaged = || BackendError::at("a block".to_owned(), crate::codec::BadBytes("odd".to_owned()));
    let tries = Cell::new(0);
    let read = store.access.read(|database| {
        tries.set(tries.get() + 1);
        if tries.get() == 1 {
            stop(&store);
            store.reopen().unwrap();
            return Err(damaged());
        }
        read_meta(path(), database).map_err(|_error| broken())
    });
    assert_eq!((read.unwrap(), tries.get()), (meta(), 2));
    let read: Result<(), _> = store.access.read(|_| {
        tries.set(tries.get() + 1);
        Err(damaged())
    });
    assert!(matches!(read, Err(ReadError::Damaged(_))) && tries.get() == 3, "{read:?}");
}

#[test]
fn a_read_is_not_tried_for_ever() {
    let store = new_store(&SimDisk::new());
    let tries = Cell::new(0);
    let read: Result<(), _> = store.access.read(|_| {
        tries.set(tries.get() + 1);
        Err(broken())
    });
    assert!(matches!(read, Err(ReadError::Io(_))));
    assert_eq!(tries.get(), 3);
    assert!(store.access.read(|_| Ok(())).is_ok(), "the next one finds what there is");
}

#[test]
fn a_record_is_found_as_soon_as_it_has_a_place() {
    let store = new_store(&SimDisk::new());
    let (sender, receiver) = mpsc::sync_channel::<Record>(1);
    thread::scope(|threads| {
        threads.spawn(|| {
            for record in receiver {
                let place = iter::repeat_with(|| record.location()).flatten().next().unwrap();
                assert!(read(&store, place, record.digest()).unwrap().is_some());
            }
        });
        for _ in 0..20 {
            // So many that all are told their places in a time in which somebody reads the first.
            let records: Vec<_> = (0..5_000).map(record).collect();
            sender.send(records[0].clone()).unwrap();
            apply(&store, &Batch { records, ..Batch::default() }, NOW, true).unwrap();
        }
        drop(sender);
    });
}

/// Ends the readers of a test, however the test ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn readers_and_a_writer_that_open_the_database_again_do_not_disturb_each_other() {
    let disk = SimDisk::new();
    let store = new_store(&disk);
    let (record, place) = stored(&store, 7);
    let is_over = AtomicBool::new(false);
    let read = || match read(&store, place, record.digest()) {
        Ok(found) => assert_eq!(found.unwrap().body(), b"body"),
        // Others may have stopped all that it was given.
        Err(error) => assert!(matches!(error, ReadError::Io(_)), "{error}"),
    };
    thread::scope(|threads| {
        let over = Over(&is_over);
        for _ in 0..3 {
            threads.spawn(|| {
                while !is_over.load(Ordering::Acquire) {
                    disk.fail_read(disk.reads());
                    read();
                }
            });
        }
        for _ in 0..20 {
            // One that fails leaves it to the next.
            let opened = store.access.reopen(|_| {
                threads.spawn(read);
                (0..10).for_each(|_| thread::yield_now());
                Ok(())
            });
            drop(opened);
            drop(store.compact());
        }
        drop(over);
    });
    disk.mend();
    store.reopen().unwrap();
    assert!(super::read(&store, place, record.digest()).unwrap().is_some());
    store.close().unwrap();
    drop(store);
    let mut keys = 0;
    open(&disk).load(vec![|found: &[Stored]| keys += found.len()], |_| (), |_, _| ()).unwrap();
    assert_eq!(keys, 1);
}

#[test]
fn records_on_a_disk_that_went_away_come_back_with_it_and_not_from_a_file_that_was_cut_off() {
    let disk = SimDisk::new();
    let store = new_store(&disk);
    let (record, place) = stored(&store, 7);
    disk.crash_at(disk.operations());
    assert!(apply(&store, &Batch::default(), NOW, true).is_err() && disk.crashed());
    let stopped: Result<(), _> = store.access.read(|_| Err(broken()));
    assert!(matches!(stopped, Err(ReadError::Io(_))));
    for _ in 0..2 {
        assert!(matches!(read(&store, place, record.digest()), Err(ReadError::Io(_))));
    }
    disk.restart_process();
    assert_eq!(read(&store, place, record.digest()).unwrap().unwrap().body(), b"body");

    assert!(disk.truncate(path(), 100));
    let stopped: Result<(), _> = store.access.read(|_| Err(broken()));
    assert!(matches!(stopped, Err(ReadError::Damaged(_))), "{stopped:?}");
    is_damage(read(&store, place, record.digest()), "");
    assert!(!disk.truncate(Path::new("y.idem"), 0), "there is no such file");
    store.close().unwrap();
}

/// It span, which a read on a slow disk made long.
#[test]
fn a_thread_that_needs_the_database_alone_sleeps_until_the_last_read_has_ended() {
    let store = new_store(&SimDisk::new());
    let (is_reading, reads) = mpsc::sync_channel(1);
    let (go, may_go) = mpsc::sync_channel::<()>(1);
    thread::scope(|threads| {
        let go = go;
        let access = &store.access;
        threads.spawn(move || {
            let read = access.read(|_| {
                is_reading.send(()).unwrap();
                // The other side is dropped.
                may_go.recv().unwrap_err();
                Ok(())
            });
            read.unwrap();
        });
        reads.recv().unwrap();
        let closes = threads.spawn(|| store.close());
        while !access.users.is_awaited() {
            thread::yield_now();
        }
        assert!(!closes.is_finished(), "the read goes on");
        drop(go);
        closes.join().unwrap().unwrap();
    });
    assert!(!store.access.users.is_awaited());
}

/// Pages move, so a compaction has the database alone. It is not urgent, and a disk may take half a
/// minute for a sector: all other reads waited behind the compaction for that one.
#[test]
fn a_compaction_does_not_wait_for_a_slow_read_and_holds_up_no_others() {
    let store = new_store(&SimDisk::new());
    let (is_reading, reads) = mpsc::sync_channel(1);
    let (go, may_go) = mpsc::sync_channel::<()>(1);
    thread::scope(|threads| {
        let go = go;
        let access = &store.access;
        let slow = threads.spawn(move || {
            access.read(|database| {
                is_reading.send(()).unwrap();
                // The other side is dropped.
                may_go.recv().unwrap_err();
                read_meta(path(), database).map_err(|_error| broken())
            })
        });
        reads.recv().unwrap();
        let compacts = threads.spawn(|| store.compact().unwrap());
        while !access.users.is_awaited() && !compacts.is_finished() {
            thread::yield_now();
        }
        let other = threads.spawn(|| access.read(|_| Ok(())));
        let until = Deadline::after(Duration::from_secs(20));
        while !(until.has_passed() || compacts.is_finished() && other.is_finished()) {
            thread::yield_now();
        }
        assert!(compacts.is_finished() && other.is_finished(), "they wait for the slow read");
        assert!(!compacts.join().unwrap());
        other.join().unwrap().unwrap();
        assert!(access.is_current() && !access.users.is_awaited());
        drop(go);
        assert_eq!(slow.join().unwrap().unwrap(), meta());
    });
    assert!(store.compact().unwrap());
    store.close().unwrap();
}

/// A disk may take half a minute to give a sector up, at the first try and at the next. All readers
/// waited for that, because the one that opens the file again waited to be alone.
#[test]
fn a_slow_read_holds_up_neither_an_opening_nor_other_readers() {
    for slow_try in [1, 2] {
        let store = new_store(&SimDisk::new());
        let (is_reading, reads) = mpsc::sync_channel(1);
        let (go, may_go) = mpsc::sync_channel::<()>(1);
        let access = &store.access;
        thread::scope(|threads| {
            let go = go;
            let slow = threads.spawn(move || {
                let tries = Cell::new(0);
                let read = access.read(|database| {
                    tries.set(tries.get() + 1);
                    if tries.get() == slow_try {
                        is_reading.send(()).unwrap();
                        // The other side is dropped.
                        may_go.recv().unwrap_err();
                    }
                    if tries.get() <= slow_try {
                        return Err(broken());
                    }
                    read_meta(path(), database).map_err(|_error| broken())
                });
                (read, tries.get())
            });
            reads.recv().unwrap();
            assert_eq!(access.is_current(), slow_try == 1, "the second try is in a view");
            // As a commit does whose own read has failed.
            let opens = threads.spawn(|| store.reopen());
            let until = Deadline::after(Duration::from_secs(20));
            while !opens.is_finished() {
                assert!(!until.has_passed(), "it waits for the slow read");
                thread::yield_now();
            }
            opens.join().unwrap().unwrap();
            assert!(access.is_current() && access.read(|_| Ok(())).is_ok());
            drop(go);
            let (read, tries) = slow.join().unwrap();
            assert_eq!((read.unwrap(), tries), (meta(), slow_try + 1));
            assert!(access.is_current(), "the file's database was not the one that failed it");
        });
        store.close().unwrap();
    }
}

/// A compaction would wait for its readers, and could then not write.
#[test]
fn a_database_that_has_stopped_is_not_compacted() {
    let store = new_store(&SimDisk::new());
    thread::scope(|threads| {
        let compacted = store.access.read(|database| {
            database.faults.stop();
            let compacts = threads.spawn(|| store.compact().unwrap());
            let until = Deadline::after(Duration::from_secs(20));
            while !compacts.is_finished() && !until.has_passed() {
                thread::yield_now();
            }
            assert!(compacts.is_finished(), "it waits for the read");
            Ok(compacts.join().unwrap())
        });
        assert!(!compacted.unwrap());
    });
    store.close().unwrap();
}

/// redb writes as it closes a database: its header, over that of the next one.
#[test]
fn the_last_reader_of_a_database_that_was_left_behind_writes_nothing() {
    for opens in [true, false] {
        let disk = SimDisk::new();
        let store = new_store(&disk);
        let operations = Cell::new(0);
        let tries = Cell::new(0);
        let read = store.access.read(|_| {
            tries.set(tries.get() + 1);
            if tries.get() == 1 {
                stop(&store);
                if opens {
                    store.reopen().unwrap();
                }
                operations.set(disk.operations());
                return Err(broken());
            }
            assert_eq!(disk.operations(), operations.get(), "it was closed by now");
            Ok(())
        });
        read.unwrap();
        store.close().unwrap();
    }
}

/// redb also writes as it reads, to make space in its cache.
#[test]
fn a_page_that_a_reader_writes_is_in_the_file_before_it_is_opened_again_or_unlocked() {
    for opens in [true, false] {
        let disk = SimDisk::new();
        let store = new_store(&disk);
        let old: Vec<_> = (0..6).map(|n| stored_with(&store, n, &[7; 12 << 10])).collect();
        store.close().unwrap();
        drop(store);
        let store = open(&disk);
        // Its pages stay in redb's cache, until the close writes them.
        let records = (10..12).map(|n| record_with(n, &[8; 12 << 10])).collect();
        apply(&store, &Batch { records, closes: true, ..Batch::default() }, NOW, true).unwrap();
        let (held, go) = hold_the_next_write(&disk);
        let (access, is_read) = (&store.access, AtomicBool::new(false));
        thread::scope(|threads| {
            let go = go;
            let reader = threads.spawn(|| {
                for (record, place) in &old {
                    let found = read(&store, *place, record.digest());
                    assert!(matches!(found, Ok(Some(_)) | Err(ReadError::Closed)), "{found:?}");
                }
                is_read.store(true, Ordering::Release);
            });
            held.recv_timeout(Duration::from_secs(20)).expect("a reader that writes");
            stop(&store);
            // The last commit was not durable yet: it is lost, and the close says so.
            let goes_on = threads.spawn(|| {
                if opens { store.access.reopen(|_| Ok(())).is_ok() } else { store.close().is_err() }
            });
            while !access.faults.are_changes_awaited() && !goes_on.is_finished() {
                thread::yield_now();
            }
            assert!(!goes_on.is_finished() && !is_read.load(Ordering::Acquire), "the write goes on");
            drop(go);
            assert!(goes_on.join().unwrap());
            reader.join().unwrap();
        });
    }
}

/// The disk goes away for a moment. What a view would have found where the block lies, nobody
/// knows.
#[test]
fn a_view_that_could_not_be_opened_is_no_failed_read_of_a_block() {
    let disk = SimDisk::new();
    let store = new_store(&disk);
    let body = vec![7; 200 << 10];
    let (record, place) = stored_with(&store, 7, &body);
    store.close().unwrap();
    let store = open(&disk);
    (disk.reads()..disk.reads() + 3).for_each(|read| disk.fail_read(read));
    assert!(matches!(read(&store, place, record.digest()), Err(ReadError::Io(_))));
    assert_eq!(store.unread.len(), 0);
    disk.mend();
    assert_eq!(read(&store, place, record.digest()).unwrap().unwrap().body(), body);
    store.close().unwrap();
}

/// The next read of the disk is told of, and held until the sender is dropped.
fn hold_the_next_read(disk: &SimDisk) -> (mpsc::Receiver<()>, mpsc::SyncSender<()>) {
    let (hook, held, go) = hold_first();
    disk.before_reads(move |_| hook());
    (held, go)
}

/// The same for a write.
fn hold_the_next_write(disk: &SimDisk) -> (mpsc::Receiver<()>, mpsc::SyncSender<()>) {
    let (hook, held, go) = hold_first();
    disk.before_writes(move |_| hook());
    (held, go)
}

fn hold_first() -> (impl Fn() + Send + Sync + 'static, mpsc::Receiver<()>, mpsc::SyncSender<()>) {
    let (is_held, held) = mpsc::sync_channel(1);
    let (go, may_go) = mpsc::sync_channel::<()>(1);
    let (is_held, may_go) = (Mutex::new(Some(is_held)), Mutex::new(may_go));
    let hook = move || {
        let first = is_held.lock().take();
        if let Some(is_held) = first {
            is_held.send(()).unwrap();
            // The other side is dropped.
            may_go.lock().recv().unwrap_err();
        }
    };
    (hook, held, go)
}

/// The path to the disk is away, and each read takes a minute to fail.
#[test]
fn readers_that_waited_for_a_view_that_could_not_be_opened_do_not_each_open_it_again() {
    const READERS: u64 = 8;
    let disk = SimDisk::new();
    let store = new_store(&disk);
    let (held, go) = hold_the_next_read(&disk);
    assert!(disk.fail_reads_of(path(), 0..u64::MAX));
    let (access, before) = (&store.access, disk.reads());
    let reads = thread::scope(|threads| {
        let stops = || access.read(|_| Err::<(), _>(broken()));
        let first = threads.spawn(stops);
        held.recv().unwrap();
        let others: Vec<_> = (1..READERS).map(|_| threads.spawn(stops)).collect();
        while access.waiting.load(Ordering::SeqCst) < READERS - 1 {
            thread::yield_now();
        }
        drop(go);
        let all = others.into_iter().chain([first]);
        all.for_each(|reader| assert!(matches!(reader.join().unwrap(), Err(ReadError::Io(_)))));
        disk.reads() - before
    });
    // The first one's, and what it tried again.
    assert!(reads <= 3, "{reads} reads");
    let before = disk.reads();
    store.access.refuse_long_reads();
    assert!(matches!(store.access.read(|_| Ok(())), Err(ReadError::Closed)));
    assert_eq!(disk.reads(), before, "a close would wait for it");
    disk.mend();
    store.close().unwrap();
}

/// It would be remembered for good: nobody asks for the block any more.
#[test]
fn a_slow_read_that_fails_once_its_block_was_dropped_is_not_remembered() {
    let disk = SimDisk::new();
    let store = new_store(&disk);
    let (record, place) = stored_with(&store, 7, &vec![7; 200 << 10]);
    store.close().unwrap();
    drop(store);
    let store = open(&disk);
    // It has rested, and is read once.
    let failure = IoFailure::new(path(), "reading", io::Error::other("a bad sector"));
    let before = Timestamp::default();
    (0..3).for_each(|_| store.unread.failed(place.block(), &failure, before..before));
    let (held, go) = hold_the_next_read(&disk);
    thread::scope(|threads| {
        let slow = threads.spawn(|| read(&store, place, record.digest()));
        held.recv().unwrap();
        assert_eq!(reclaim(&store, EXPIRED, true), 1);
        disk.fail_read(disk.reads());
        drop(go);
        let failed = slow.join().unwrap();
        assert!(matches!(failed, Err(ReadError::Io(_))), "{failed:?}");
    });
    assert_eq!(store.unread.len(), 0);
    store.close().unwrap();
}

#[test]
fn a_block_that_was_dropped_is_not_remembered_as_unreadable() {
    let store = new_store(&SimDisk::new());
    let (_, place) = stored(&store, 7);
    let failure = IoFailure::new(path(), "reading", io::Error::other("a bad sector"));
    store.unread.failed(place.block(), &failure, NOW..NOW);
    assert_eq!((reclaim(&store, NOW, true), store.unread.len()), (0, 1));
    assert_eq!((reclaim(&store, EXPIRED, true), store.unread.len()), (1, 0));
    store.close().unwrap();
}
