//! Checkpoints that meet a read that fails: one time, or a bad sector for good.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::common::{self, Machine, default_scope, done, fresh, request};
use crate::helpers::{claims_until_refused, results_on_disk_alone};
use idemkv::sim::{CrashKind, ManualClock};
use idemkv::{BeginError, Busy, Completion, Engine, Failure, Options, Policy, Verify};

const HOUR: Duration = Duration::from_secs(3_600);
const LONG: Duration = Duration::from_secs(300 * 24 * 3_600);

/// Old records with tombstones to carry, small blocks to merge, and new records.
struct Old(Machine);

const CARRIED: usize = 400;
const MERGED: usize = 30;
const KEPT: usize = 20;

/// So long that redb gives a block of one record pages of its own.
fn body(key: &str) -> Vec<u8> {
    format!("the body of {key}; ").into_bytes().into_iter().cycle().take(4_090).collect()
}

impl Old {
    fn options(machine: &Machine) -> Options {
        let policy = Policy::default().ttl(HOUR).tombstone_ttl(LONG);
        // An opening that verifies reads everything.
        machine.options().policy(policy).cache_bytes(1 << 20).verify(Verify::UpTo(0))
    }

    fn new() -> Self {
        let machine = Machine::default();
        let engine = Self::options(&machine).open("x.idem").unwrap();
        let complete = |engine: &Engine, key: &str| {
            drop(fresh(&default_scope(engine), key).complete(body(key)).unwrap());
        };
        for n in 0..CARRIED {
            complete(&engine, &format!("carried {n}"));
        }
        for n in 0..KEPT {
            let (key, completion) = (format!("kept {n}"), Completion::new().ttl(3 * HOUR));
            drop(fresh(&default_scope(&engine), &key).complete_with(body(&key), completion).unwrap());
        }
        engine.close().unwrap();
        machine.clock.advance(HOUR / 2);
        // The commit of a close merges nothing.
        for n in 0..MERGED {
            let engine = Self::options(&machine).open("x.idem").unwrap();
            complete(&engine, &format!("merged {n}"));
            engine.close().unwrap();
        }
        Self(machine)
    }

    /// The same files on another machine, when some have expired.
    fn machine(&self) -> Machine {
        let clock = ManualClock::at_millis(common::START_MS + 3_660_000);
        Machine { disk: self.0.disk.image(CrashKind::KeepAll), clock, ..self.0.clone() }
    }

    fn open(machine: &Machine) -> Engine {
        let engine = Self::options(machine).open("x.idem").unwrap();
        for n in 0..4 {
            fresh(&default_scope(&engine), &format!("new {n}")).complete(body("new")).unwrap();
        }
        engine
    }

    /// Where a key's body is in the file.
    fn place(machine: &Machine, key: &str) -> Range<u64> {
        let bytes = machine.disk.read(Path::new("x.idem")).unwrap();
        let body = body(key);
        let at = bytes.windows(body.len()).position(|window| window == body).unwrap() as u64;
        at + 512..at + 513
    }

    fn check(engine: &Engine, but: &[&str], context: &str) {
        let scope = default_scope(engine);
        let is_checked = |key: &String| !but.contains(&key.as_str());
        for key in (0..CARRIED).map(|n| format!("carried {n}")).filter(is_checked) {
            let told = scope.begin(&*key, request());
            assert!(matches!(told, Err(BeginError::Expired(_))), "{context}, {key}: {told:?}");
        }
        let live = (0..MERGED).map(|n| format!("merged {n}"));
        for key in live.chain((0..KEPT).map(|n| format!("kept {n}"))).filter(is_checked) {
            assert_eq!(done(&scope, &key).body(), body(&key), "{context}");
        }
        for n in 0..4 {
            assert_eq!(done(&scope, &format!("new {n}")).body(), body("new"), "{context}");
        }
    }
}

#[test]
fn a_read_of_a_checkpoint_that_fails_once_stops_nobody_and_loses_nothing() {
    let old = Old::new();
    let mut reads = 0..u64::MAX;
    for at in 0.. {
        let machine = old.machine();
        let engine = Old::open(&machine);
        let first = machine.disk.reads();
        machine.disk.fail_read(first + at);
        let moved = engine.checkpoint();
        machine.disk.mend();
        reads.end = machine.disk.reads() - first;
        let context = format!("read {at} of {}", reads.end);
        assert!(!engine.stats().has_failed && !engine.stats().is_disk_full, "{context}: {moved:?}");
        assert!(moved.is_ok(), "{context}: nothing else was wrong, {moved:?}");
        fresh(&default_scope(&engine), "granted").complete("reply").unwrap();
        Old::check(&engine, &[], &context);
        machine.kill(engine);
        let engine = Old::options(&machine).open("x.idem").unwrap();
        Old::check(&engine, &[], &context);
        assert_eq!(done(&default_scope(&engine), "granted").body(), b"reply");
        if at > reads.end {
            break;
        }
    }
    assert!(reads.end > 50, "{reads:?}");
}

/// A block of either kind can't be read, moved or dropped. It halted everybody, at each checkpoint
/// anew. (With its debug assertions redb reads every page at an opening, and the file would not
/// open.)
#[test]
#[cfg_attr(debug_assertions, ignore = "cargo test --release --test faults unread")]
fn a_bad_sector_under_an_old_record_costs_that_record_alone_and_is_tried_again_later() {
    let old = Old::new();
    for key in ["carried 350", "merged 20"] {
        let machine = old.machine();
        let place = Old::place(&machine, key);
        let mut engine = Old::open(&machine);
        assert!(machine.disk.fail_reads_of(Path::new("x.idem"), place.clone()));
        let mut met = 0;
        for round in 0..6 {
            fresh(&default_scope(&engine), &format!("{round}")).complete("reply").unwrap();
            engine.checkpoint().unwrap();
            machine.clock.advance(Duration::from_secs(60));
            engine.step();
            assert!(!engine.stats().has_failed && !engine.stats().is_file_not_ready, "{key}, {round}");
            if round == 2 {
                met += engine.stats().failed_reads;
                machine.kill(engine);
                engine = Old::options(&machine).open("x.idem").unwrap();
            }
        }
        assert!(met > 0, "{key}: it was not met");
        // Those that lie in the same block can be met, too.
        let scope = default_scope(&engine);
        let lost = |key: &String| matches!(scope.begin(&**key, request()), Err(BeginError::Io(_)));
        let others = (0..CARRIED).map(|n| format!("carried {n}"));
        let lost: Vec<_> = others.chain((0..MERGED).map(|n| format!("merged {n}"))).filter(lost).collect();
        assert!(lost.contains(&key.to_owned()) && lost.len() <= 16, "{key}: {lost:?}");
        Old::check(&engine, &lost.iter().map(String::as_str).collect::<Vec<_>>(), key);
        // The sector can be read again, and what lies there is where it belongs.
        machine.disk.mend();
        // A block that could not be read often is read again within a minute.
        machine.clock.advance(Duration::from_secs(60));
        Old::check(&engine, &[], key);
        let before = engine.stats().reclaimed_blocks;
        engine.checkpoint().unwrap();
        assert_eq!(engine.stats().reclaimed_blocks, before, "{key}: it is not tried so soon");
        machine.clock.advance(Duration::from_secs(600));
        engine.checkpoint().unwrap();
        assert!(engine.stats().reclaimed_blocks > before || key.starts_with("merged"));
        Old::check(&engine, &[], key);
        drop(scope);
        machine.kill(engine);
        Old::check(&Old::options(&machine).open("x.idem").unwrap(), &[], key);
    }
}

/// Blocks that go without being read are read all the same, by redb.
#[test]
#[cfg_attr(debug_assertions, ignore = "cargo test --release --test faults unread")]
fn a_bad_sector_under_a_record_that_is_over_keeps_no_other_from_leaving() {
    let machine = Machine::default();
    let options = || machine.options().policy(Policy::default().ttl(HOUR)).cache_bytes(1 << 20);
    let engine = options().open("x.idem").unwrap();
    for n in 0..CARRIED {
        let key = format!("{n}");
        fresh(&default_scope(&engine), &key).complete(body(&key)).unwrap();
    }
    for n in 0..20 {
        let kept = fresh(&default_scope(&engine), &format!("kept {n}"));
        drop(kept.complete_with(body("kept"), Completion::new().ttl(3 * HOUR)).unwrap());
    }
    engine.close().unwrap();
    let place = Old::place(&machine, "350");
    let engine = options().open("x.idem").unwrap();
    machine.clock.advance(2 * HOUR);
    assert!(machine.disk.fail_reads_of(Path::new("x.idem"), place.clone()));
    for _ in 0..3 {
        engine.checkpoint().unwrap();
    }
    let reclaimed = engine.stats().reclaimed_blocks;
    assert!(reclaimed > 5 && engine.stats().failed_reads > 0, "{reclaimed}");
    machine.disk.mend();
    machine.clock.advance(Duration::from_secs(600));
    engine.checkpoint().unwrap();
    assert!(engine.stats().reclaimed_blocks > reclaimed);
}

#[test]
fn while_no_read_works_claims_are_granted_until_the_log_is_full_and_then_told_why() {
    let machine = Machine::default();
    let options = || machine.options().cache_bytes(8 << 10).queue_timeout(Duration::ZERO);
    let engine = options().open("x.idem").unwrap();
    let count = results_on_disk_alone(&engine);
    engine.close().unwrap();
    let engine = options().open("x.idem").unwrap();
    let scope = default_scope(&engine);
    machine.clock.advance(common::TTL);
    drop(fresh(&scope, "done").complete("reply").unwrap());
    assert!(machine.disk.fail_reads_of(Path::new("x.idem"), 0..u64::MAX));
    // What has expired is to leave the file.
    let moved = engine.checkpoint().unwrap_err();
    assert!(matches!(&moved, Failure::FileNotReady(failure) if !failure.is_disk_full()), "{moved}");
    assert!(moved.to_string().contains("tries again"), "{moved}");
    let (claims, refused) = claims_until_refused(&engine);
    assert!(matches!(&refused, BeginError::Busy(Busy::FileNotReady(_))), "{refused}");
    assert!(refused.is_retryable());
    let stats = engine.stats();
    assert!(stats.is_file_not_ready && !stats.is_disk_full && !stats.has_failed, "{stats:?}");
    assert_eq!((stats.busy.file_not_ready, stats.busy.disk_full), (1, 0));
    let claimed = claims.len();
    assert!(claimed > 5);
    for claim in claims {
        drop(claim.complete("reply").unwrap());
    }
    machine.disk.mend();
    // The worker comes back by itself, after a while.
    assert!(!engine.step().checkpointed);
    machine.clock.advance(Duration::from_secs(1));
    assert!(engine.step().checkpointed);
    assert!(!engine.stats().is_file_not_ready);
    machine.clock.advance(Duration::from_secs(600));
    engine.checkpoint().unwrap();
    assert!(engine.stats().reclaimed_blocks > count as u64 / 25);
    drop(fresh(&scope, "granted").complete("reply").unwrap());
    drop(scope);
    machine.kill(engine);
    let engine = machine.open();
    (0..claimed).for_each(|n| drop(done(&default_scope(&engine), &format!("filler {n}"))));
    for key in ["done", "granted"] {
        drop(done(&default_scope(&engine), key));
    }
}

/// redb goes on reading after a commit, and says that the commit failed where that fails. It is
/// there all the same. A read that fails in the middle of the commit leaves nothing.
#[test]
fn a_commit_that_stopped_at_a_read_counts_where_it_is_there_and_is_made_again_where_it_is_not() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    for sync in 0..2 {
        let old = Old::new();
        let machine = old.machine();
        let engine = Arc::new(Old::open(&machine));
        let (syncs, met) = (AtomicU64::new(0), Arc::new(AtomicU64::new(0)));
        let (weak, disk, counted) = (Arc::downgrade(&engine), machine.disk.clone(), Arc::clone(&met));
        machine.disk.before_syncs(move |name| {
            let Some(engine) = weak.upgrade().filter(|_| name == "x.idem") else { return };
            if syncs.fetch_add(1, Ordering::Relaxed) == sync {
                // Some reader meets a bad sector just now.
                disk.fail_read(disk.reads());
                let read = (0..KEPT).any(|n| {
                    drop(engine.default_scope().get(format!("kept {n}")));
                    engine.stats().failed_reads > 0
                });
                counted.fetch_add(u64::from(read), Ordering::Relaxed);
            }
        });
        engine.checkpoint().unwrap();
        assert_eq!(met.load(Ordering::Relaxed), 1, "sync {sync} met no read");
        machine.disk.before_syncs(|_| {});
        Old::check(&engine, &[], "open");
        assert_eq!(engine.stats().checkpoints, 1);
        engine.checkpoint().unwrap();
        fresh(&default_scope(&engine), "granted").complete("reply").unwrap();
        machine.kill(Arc::into_inner(engine).unwrap());
        let engine = Old::options(&machine).open("x.idem").unwrap();
        Old::check(&engine, &[], "after a kill");
        drop(done(&default_scope(&engine), "granted"));
    }
}

/// A file with 100 records on disk alone, and bad sectors under the first of them.
fn with_bad_sectors(count: usize) -> (Machine, Arc<Engine>) {
    with_bad_sectors_under(count, LONG)
}

/// The same with records of some TTL.
fn with_bad_sectors_under(count: usize, ttl: Duration) -> (Machine, Arc<Engine>) {
    let machine = Machine::default();
    let options = || {
        let policy = Policy::default().ttl(ttl);
        let sizes = machine
            .options()
            .cache_bytes(8 << 10)
            .log_segment_bytes(512 << 10)
            .log_bytes(8 << 20)
            .max_body_bytes(64 << 10);
        sizes.policy(policy).verify(Verify::UpTo(0))
    };
    let engine = options().open("x.idem").unwrap();
    // Each has a block of its own.
    for n in 0..100 {
        let key = format!("kept {n}");
        fresh(&default_scope(&engine), &key).complete(body(&key).repeat(10)).unwrap();
    }
    engine.close().unwrap();
    let engine = options().open("x.idem").unwrap();
    for n in 0..count {
        let place = Old::place(&machine, &format!("kept {n}"));
        assert!(machine.disk.fail_reads_of(Path::new("x.idem"), place));
    }
    (machine, Arc::new(engine))
}

/// A scratch on a disk that takes its time before it gives a sector up. One try after the other
/// met one of the blocks, and then the first of them was to be tried again.
#[test]
#[cfg_attr(debug_assertions, ignore = "cargo test --release --test faults unread")]
fn many_bad_sectors_under_what_has_expired_keep_no_checkpoint_from_succeeding() {
    const BAD: usize = 40;
    let (machine, engine) = with_bad_sectors_under(BAD, HOUR);
    let clock = machine.clock.clone();
    machine.disk.before_reads(move |name| {
        if name == "x.idem" {
            clock.advance(Duration::from_secs(30));
        }
    });
    machine.clock.advance(HOUR);
    for round in 0..2 * BAD {
        fresh(&default_scope(&engine), &format!("{round}")).complete("reply").unwrap();
        engine.checkpoint().unwrap_or_else(|failure| panic!("round {round}: {failure}"));
        assert!(!engine.stats().is_file_not_ready, "round {round}");
    }
    machine.disk.mend();
    for _ in 0..10 {
        machine.clock.advance(24 * HOUR);
        engine.checkpoint().unwrap();
    }
    assert!(engine.stats().reclaimed_blocks >= 100, "{}", engine.stats().reclaimed_blocks);
}

/// Ten minutes, twenty, and so on up to a day.
#[test]
#[cfg_attr(debug_assertions, ignore = "cargo test --release --test faults unread")]
fn a_block_that_has_expired_under_a_bad_sector_is_tried_less_and_less_often() {
    let (machine, engine) = with_bad_sectors_under(1, HOUR);
    machine.clock.advance(HOUR);
    let tries = |ten_minutes: u32| {
        let before = engine.stats().failed_reads;
        for n in 0..ten_minutes {
            // With a page of its own: redb reads the neighbours of a page that gets short.
            let key = format!("{ten_minutes} {n}");
            fresh(&default_scope(&engine), &key).complete(body(&key).repeat(10)).unwrap();
            engine.checkpoint().unwrap();
            machine.clock.advance(Duration::from_secs(600));
        }
        engine.stats().failed_reads - before
    };
    let (first_day, next_week) = (tries(144), tries(7 * 144));
    assert!((6..=10).contains(&first_day) && (6..=8).contains(&next_week), "{first_day}, {next_week}");
}

/// A caller waits for its commit, which is tried once.
#[test]
#[cfg_attr(debug_assertions, ignore = "cargo test --release --test faults unread")]
fn a_completion_in_the_file_meets_no_second_bad_sector_under_what_has_expired() {
    let (machine, engine) = with_bad_sectors_under(10, HOUR);
    machine.clock.advance(HOUR);
    let complete = |n: u64| {
        let claim = fresh(&default_scope(&engine), &n.to_string());
        claim.complete_in(|_| Ok::<_, Box<dyn std::error::Error>>("reply")).is_ok()
    };
    let failed = (0..10).filter(|n| !complete(*n)).count();
    assert!(failed <= 1, "{failed} of 10");
}

/// A page of its own is not read because a neighbour gets short.
#[test]
#[cfg_attr(debug_assertions, ignore = "cargo test --release --test faults unread")]
fn a_completion_in_the_file_leaves_a_block_under_a_bad_sector_to_checkpoints() {
    let (machine, engine) = with_bad_sectors_under(1, HOUR);
    machine.clock.advance(HOUR);
    let complete = |n: u64| {
        machine.clock.advance(Duration::from_secs(1_200));
        let (key, body) = (n.to_string(), body("large").repeat(10));
        fresh(&default_scope(&engine), &key).complete_in(|_| Ok::<_, std::io::Error>(body)).is_ok()
    };
    let failed = (0..72).filter(|n| !complete(*n)).count();
    assert_eq!(failed, 1, "of 72");
}

/// Two bad sectors far from each other are not one that many calls meet.
#[test]
#[cfg_attr(debug_assertions, ignore = "cargo test --release --test faults unread")]
fn a_completion_in_the_file_that_takes_blocks_ends_the_long_rest() {
    let (machine, engine) = with_bad_sectors_under(1, HOUR);
    let second = Old::place(&machine, "kept 90");
    assert!(machine.disk.fail_reads_of(Path::new("x.idem"), second));
    machine.clock.advance(HOUR);
    let told = [1, 2, 3, 4].map(|n| {
        machine.clock.advance(Duration::from_secs(900));
        let (claim, body) = (fresh(&default_scope(&engine), &n.to_string()), body("large").repeat(10));
        let before = engine.stats().reclaimed_blocks;
        let is_done = claim.complete_in(|_| Ok::<_, std::io::Error>(body)).is_ok();
        (is_done, engine.stats().reclaimed_blocks > before)
    });
    assert_eq!(told, [(false, false), (true, true), (false, false), (true, true)]);
}

/// Each block that expires is dropped beside the one under the bad sector, which redb then reads.
#[test]
#[cfg_attr(debug_assertions, ignore = "cargo test --release --test faults unread")]
fn completions_in_the_file_take_blocks_beside_a_bad_sector_less_and_less_often() {
    let (machine, engine) = with_bad_sectors_under(1, HOUR);
    machine.clock.advance(HOUR);
    let mut keys = 0..;
    let mut failed = |ten_minutes: usize| {
        let is_refused = |n: &u64| {
            machine.clock.advance(Duration::from_secs(600));
            let claim = fresh(&default_scope(&engine), &n.to_string());
            claim.complete_in(|_| Ok::<_, std::io::Error>("reply")).is_err()
        };
        keys.by_ref().take(ten_minutes).filter(is_refused).count()
    };
    let (first_day, next_week) = (failed(144), failed(7 * 144));
    assert!((2..=10).contains(&first_day) && next_week <= 8, "{first_day}, {next_week}");
}

fn open_few(machine: &Machine) -> Engine {
    let policy = Policy::default().ttl(HOUR).tombstone_ttl(LONG);
    let options = machine.options().policy(policy).cache_bytes(64 << 10).verify(Verify::UpTo(0));
    let engine = options.open("x.idem").unwrap();
    // So that redb keeps no page of the others in memory.
    (60..460).for_each(|n| drop(engine.default_scope().get(n.to_string())));
    engine
}

/// A file of which a few records are due after an hour.
fn few_due(machine: &Machine) -> Engine {
    let engine = open_few(machine);
    for n in 0..460 {
        let completion = Completion::new().ttl(if n < 60 { HOUR } else { 9 * HOUR });
        let claim = fresh(&default_scope(&engine), &n.to_string());
        claim.complete_with(body("body"), completion).unwrap();
    }
    engine
}

/// Too few for a checkpoint of their own; the others went with the next one, ten minutes later.
#[test]
fn what_is_due_beside_a_block_that_could_not_be_read_goes_seconds_later() {
    let before = Machine::default();
    let engine = few_due(&before);
    engine.close().unwrap();
    before.clock.advance(HOUR);
    let mut met = 0;
    for at in 0.. {
        let (disk, clock) = (before.disk.image(CrashKind::KeepAll), before.clock.fork());
        let machine = Machine { disk, clock, ..before.clone() };
        let engine = open_few(&machine);
        let first = machine.disk.reads();
        machine.disk.fail_read(first + at);
        assert!(engine.step().checkpointed, "read {at}");
        if machine.disk.reads() <= first + at {
            break;
        }
        machine.disk.mend();
        let reclaimed = engine.stats().reclaimed_blocks;
        machine.clock.advance(Duration::from_secs(15));
        engine.step();
        if reclaimed == 0 {
            met += 1;
            assert!(engine.stats().reclaimed_blocks > 0, "read {at}");
        }
    }
    assert!(met > 0);
}

/// The disk takes its time before it gives a sector up. The ten seconds counted from the start of
/// the checkpoint, so they were over when it ended, and the file was busy without a pause.
#[test]
fn after_a_checkpoint_that_met_a_slow_bad_sector_the_file_rests_ten_times_as_long() {
    let before = Machine::default();
    let engine = few_due(&before);
    engine.close().unwrap();
    before.clock.advance(HOUR);
    let mut met = false;
    for at in 0.. {
        let (disk, clock) = (before.disk.image(CrashKind::KeepAll), before.clock.fork());
        let machine = Machine { disk, clock, ..before.clone() };
        let engine = open_few(&machine);
        let first = machine.disk.reads();
        machine.disk.fail_read(first + at);
        let clock = machine.clock.clone();
        machine.disk.before_reads(move |_| clock.advance(Duration::from_secs(5)));
        let began = machine.clock.wall_millis();
        assert!(engine.step().checkpointed, "read {at}");
        let took = Duration::from_millis(machine.clock.wall_millis() - began);
        if machine.disk.reads() <= first + at {
            break;
        }
        if engine.stats().reclaimed_blocks > 0 {
            continue;
        }
        met = true;
        machine.disk.mend();
        assert!(took > Duration::from_secs(10) && took < HOUR / 11, "{took:?}");
        assert!(!engine.step().checkpointed, "at once");
        machine.clock.advance(took * 9);
        assert!(!engine.step().checkpointed, "after nine times {took:?}");
        machine.clock.advance(took * 2);
        assert!(
            engine.step().checkpointed && engine.stats().reclaimed_blocks > 0,
            "after ten times {took:?}"
        );
    }
    assert!(met);
}

/// A client asks again and again for a key under a bad sector.
#[test]
#[cfg_attr(debug_assertions, ignore = "cargo test --release --test faults unread")]
fn lookups_of_a_key_under_a_bad_sector_keep_no_checkpoint_from_succeeding() {
    let (machine, engine) = with_bad_sectors(1);
    let (asked, told, is_over) =
        (Arc::new(Mutex::new(0_u64)), Arc::new(Condvar::new()), AtomicBool::new(false));
    let met = Arc::new(AtomicU64::new(0));
    let (seen, news, counted) = (Arc::clone(&asked), Arc::clone(&told), Arc::clone(&met));
    // A sync takes as long as the client needs to ask twice. While the file is opened, it can't.
    machine.disk.before_syncs(move |name| {
        if name == "x.idem" {
            let from = *seen.lock().unwrap();
            let limit = Duration::from_millis(20);
            let waited = news.wait_timeout_while(seen.lock().unwrap(), limit, |now| *now < from + 2).unwrap();
            counted.fetch_add(u64::from(!waited.1.timed_out()), Ordering::Relaxed);
        }
    });
    thread::scope(|threads| {
        threads.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                drop(engine.default_scope().get("kept 0"));
                *asked.lock().unwrap() += 1;
                told.notify_all();
            }
        });
        let mut moved = Vec::new();
        for n in 0..20 {
            fresh(&default_scope(&engine), &format!("{n}")).complete("reply").unwrap();
            moved.push(engine.checkpoint());
            machine.clock.advance(Duration::from_secs(1));
        }
        is_over.store(true, Ordering::Relaxed);
        let succeeded = moved.iter().filter(|moved| moved.is_ok()).count();
        let met = met.load(Ordering::Relaxed);
        assert!(succeeded >= 15, "{succeeded} of 20; {met} syncs met a lookup; {:?}", moved.last());
    });
}

/// A disk takes its time before it gives a sector up.
#[test]
#[cfg_attr(debug_assertions, ignore = "cargo test --release --test faults unread")]
fn a_block_whose_reads_fail_slowly_is_put_off_too() {
    let (machine, engine) = with_bad_sectors(1);
    let clock = machine.clock.clone();
    machine.disk.before_reads(move |name| {
        if name == "x.idem" {
            clock.advance(Duration::from_secs(30));
        }
    });
    let is_put_off = (0..60).any(|_| {
        let before = engine.stats().failed_reads;
        assert!(engine.default_scope().get("kept 0").is_err());
        engine.stats().failed_reads == before
    });
    assert!(is_put_off, "the disk is asked at each of 60 lookups");
}

/// Two clients ask for it, each without a pause.
#[test]
#[cfg_attr(debug_assertions, ignore = "cargo test --release --test faults unread")]
fn a_block_whose_read_takes_its_time_is_read_by_one_caller_at_a_time() {
    let (machine, engine) = with_bad_sectors(1);
    let look = || engine.default_scope().get("kept 0");
    (0..10).for_each(|_| assert!(look().is_err()));
    machine.clock.advance(Duration::from_secs(60));
    let (is_held, held) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let (is_held, may_go) = (Mutex::new(Some(is_held)), Mutex::new(may_go));
    machine.disk.before_reads(move |_| {
        let first = is_held.lock().unwrap().take();
        if let Some(is_held) = first {
            is_held.send(()).unwrap();
            // The other side is dropped.
            may_go.lock().unwrap().recv().unwrap_err();
        }
    });
    let before = engine.stats().failed_reads;
    thread::scope(|threads| {
        let slow = threads.spawn(look);
        held.recv().unwrap();
        let reads = machine.disk.reads();
        assert!(look().is_err());
        assert_eq!(machine.disk.reads(), reads, "it is being read");
        drop(go);
        assert!(slow.join().unwrap().is_err());
    });
    assert_eq!(engine.stats().failed_reads, before + 1, "after a rest it is read once");
}

/// Another client asks for keys elsewhere, on a disk that works there.
#[test]
#[cfg_attr(debug_assertions, ignore = "cargo test --release --test faults unread")]
fn lookups_of_keys_under_bad_sectors_take_no_other_record_from_anybody() {
    let (machine, engine) = with_bad_sectors(10);
    let healthy = thread::current().id();
    let (ask, asked) = mpsc::sync_channel::<mpsc::Sender<()>>(1);
    let ask = Mutex::new(ask);
    machine.disk.before_reads(move |_| {
        // The other client asks between two reads of this one; not while the file is opened.
        if thread::current().id() == healthy {
            let (done, is_done) = mpsc::channel();
            if ask.lock().unwrap().try_send(done).is_ok() {
                let _told = is_done.recv_timeout(Duration::from_millis(50));
            }
        }
    });
    let theirs = Arc::clone(&engine);
    thread::spawn(move || {
        for n in (0..10).cycle() {
            let Ok(done) = asked.recv() else { return };
            drop(theirs.default_scope().get(format!("kept {n}")));
            done.send(()).ok();
        }
    });
    let found: Vec<_> = (40..100).map(|n| engine.default_scope().get(format!("kept {n}"))).collect();
    machine.disk.before_reads(|_| {});
    let failed: Vec<_> = found.iter().filter(|found| found.is_err()).collect();
    assert!(failed.is_empty(), "{} of 60: {:?}", failed.len(), failed.first());
}
