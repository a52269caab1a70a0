//! How long a key is kept when the process stops, the machine sleeps or boots, and the wall clock
//! is wrong. `clocks.rs` has the same at random.

use std::time::Duration;

use crate::common::{Machine, START_MS, default_scope, done, fresh};
use idemkv::sim::CrashKind;
use idemkv::{Engine, Options, Status};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);
const YEAR_MS: u64 = 365 * 24 * 3_600_000;

/// Records are kept for a day.
fn options(machine: &Machine) -> Options {
    machine.options().ttl(DAY)
}

fn open(machine: &Machine) -> Engine {
    options(machine).open("x.idem").unwrap()
}

fn is_kept(engine: &Engine) -> bool {
    !matches!(engine.default_scope().get("key").unwrap(), Status::Vacant)
}

/// A file with a record that was completed now.
fn with_record(machine: &Machine) -> Engine {
    let engine = open(machine);
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    engine
}

#[test]
fn a_service_that_runs_five_minutes_a_night_keeps_a_record_for_its_day() {
    for kills in [false, true] {
        let machine = Machine::default();
        let mut engine = with_record(&machine);
        let mut nights = 0;
        while is_kept(&engine) {
            machine.clock.advance(5 * MINUTE);
            if kills {
                machine.kill(engine);
            } else {
                engine.close().unwrap();
            }
            machine.clock.advance(23 * HOUR + 55 * MINUTE);
            engine = open(&machine);
            nights += 1;
        }
        assert_eq!(nights, 1, "kills: {kills}");
    }
}

#[test]
fn a_wall_clock_that_is_wrong_for_one_opening_and_right_for_the_next_expires_nothing_early() {
    for boots in [false, true] {
        for wrong in [0, START_MS - YEAR_MS, START_MS - 3 * 3_600_000] {
            let machine = Machine::default();
            let options = || machine.options().ttl(30 * MINUTE);
            let engine = options().open("x.idem").unwrap();
            fresh(&default_scope(&engine), "key").complete("reply").unwrap();
            engine.close().unwrap();
            for wall in [wrong, START_MS + 60_000] {
                if boots {
                    machine.clock.reboot();
                }
                machine.clock.jump_wall_to_millis(wall);
                let engine = options().open("x.idem").unwrap();
                done(&default_scope(&engine), "key");
                engine.close().unwrap();
            }
        }
    }
}

#[test]
fn a_wall_clock_that_is_set_right_while_the_file_is_open_is_not_taken_for_a_stop() {
    for kills in [false, true] {
        let machine = Machine::default();
        machine.clock.jump_wall_to_millis(0);
        let options = || machine.options().ttl(30 * MINUTE);
        let engine = options().open("x.idem").unwrap();
        fresh(&default_scope(&engine), "key").complete("reply").unwrap();
        engine.step();
        // A time server answers.
        machine.clock.jump_wall_to_millis(START_MS);
        engine.step();
        if kills {
            machine.kill(engine);
        } else {
            engine.close().unwrap();
        }
        machine.clock.reboot();
        machine.clock.advance(MINUTE);
        let engine = options().open("x.idem").unwrap();
        done(&default_scope(&engine), "key");
        machine.clock.advance(29 * MINUTE);
        assert!(!is_kept(&engine), "the minute between counts");
    }
}

/// The leap that was not noted counted as a stop, and the key expired an hour early.
#[test]
fn a_wall_clock_that_is_set_right_soon_after_a_long_stop_is_not_taken_for_a_stop() {
    let machine = Machine::default();
    let options = || machine.options().ttl(90 * MINUTE);
    let engine = options().open("x.idem").unwrap();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    engine.close().unwrap();
    machine.clock.advance(HOUR);
    let engine = options().open("x.idem").unwrap();
    engine.step();
    machine.clock.jump_wall_to_millis(START_MS + 110 * 60_000);
    engine.step();
    machine.kill(engine);
    machine.clock.reboot();
    machine.clock.advance(MINUTE);
    let engine = options().open("x.idem").unwrap();
    done(&default_scope(&engine), "key");
    machine.clock.advance(29 * MINUTE);
    assert!(!is_kept(&engine), "an hour of a stop, a minute of another and 29 minutes since");
}

#[test]
fn a_wall_clock_that_is_set_back_while_the_file_is_open_makes_no_stop_longer() {
    let machine = Machine::default();
    let engine = with_record(&machine);
    machine.clock.jump_wall_to_millis(START_MS - YEAR_MS);
    machine.clock.advance(HOUR);
    engine.close().unwrap();
    machine.clock.reboot();
    machine.clock.jump_wall_to_millis(START_MS + 2 * 3_600_000);
    let engine = open(&machine);
    assert_eq!(
        engine.now().as_millis(),
        START_MS + 2 * 3_600_000,
        "an hour each: before the stop, and in it"
    );
}

#[test]
fn a_file_made_under_a_clock_of_1970_takes_the_right_time_while_it_has_no_keys() {
    for boots in [false, true] {
        let machine = Machine::default();
        machine.clock.jump_wall_to_millis(0);
        open(&machine).close().unwrap();
        if boots {
            machine.clock.reboot();
        }
        machine.clock.jump_wall_to_millis(START_MS);
        let engine = with_record(&machine);
        assert_eq!(engine.now().as_millis(), START_MS);
        assert_eq!(engine.stats().clock_lag_ms, 0);
        engine.close().unwrap();
        // With a key it does not: an interrupted one counts as well.
        machine.clock.jump_wall_to_millis(START_MS + YEAR_MS);
        let engine = open(&machine);
        done(&default_scope(&engine), "key");
        assert!(engine.default_scope().forget("key").unwrap());
        drop(fresh(&default_scope(&engine), "interrupted"));
        engine.close().unwrap();
        let engine = open(&machine);
        assert_eq!(engine.now().as_millis(), START_MS);
        assert_eq!(engine.stats().clock_lag_ms, i64::try_from(YEAR_MS).unwrap());
    }
}

/// Memory counts seconds from when the file was opened, so that they fit wherever time has leapt.
#[test]
fn a_file_that_has_leapt_by_centuries_still_sweeps_what_expires() {
    let machine = Machine::default();
    machine.clock.jump_wall_to_millis(0);
    open(&machine).close().unwrap();
    machine.clock.jump_wall_to_millis(1_000 * YEAR_MS);
    let engine = with_record(&machine);
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    let engine = open(&machine);
    assert_eq!(engine.stats().entries, 1);
    machine.clock.advance(DAY + MINUTE);
    engine.step();
    assert_eq!(engine.stats().entries, 0);
}

#[test]
fn a_sleep_of_the_machine_counts() {
    let machine = Machine::default();
    let engine = with_record(&machine);
    let leased = engine.set_policy("leased", engine.policy().lease(HOUR)).unwrap();
    let claim = fresh(&leased, "key");
    machine.clock.sleep(HOUR);
    engine.step();
    assert!(claim.complete("late").is_err(), "its lease ended while the machine slept");
    done(&default_scope(&engine), "key");
    machine.clock.sleep(23 * HOUR);
    engine.step();
    assert!(!is_kept(&engine));
    // And one that nobody has noticed when the file is left.
    fresh(&default_scope(&engine), "key").complete("again").unwrap();
    machine.clock.sleep(DAY);
    machine.kill(engine);
    assert!(!is_kept(&open(&machine)));
}

#[test]
fn a_backup_that_is_put_back_in_the_same_boot_is_at_the_present() {
    let machine = Machine::default();
    with_record(&machine).close().unwrap();
    let backup = machine.disk.image(CrashKind::KeepAll);
    let engine = open(&machine);
    machine.clock.advance(20 * HOUR);
    machine.clock.jump_wall_to_millis(0);
    drop(engine);
    let restored = Machine { disk: backup, clock: machine.clock.clone(), ..Machine::default() };
    let engine = open(&restored);
    done(&default_scope(&engine), "key");
    machine.clock.advance(4 * HOUR);
    assert!(!is_kept(&engine));
}

#[test]
fn on_another_machine_a_file_goes_on_by_the_wall_clock() {
    let machine = Machine::default();
    with_record(&machine).close().unwrap();
    let elsewhere = Machine { disk: machine.disk.clone(), ..Machine::default() };
    // Its boot clock says nothing of the time between, however long it has been running.
    let clock = idemkv::sim::ManualClock::at_millis(START_MS - 50 * YEAR_MS);
    clock.advance(Duration::from_millis(50 * YEAR_MS));
    clock.advance(MINUTE);
    let elsewhere = Machine { clock, ..elsewhere };
    let engine = open(&elsewhere);
    assert_eq!(engine.now().as_millis(), START_MS + 60_000);
    done(&default_scope(&engine), "key");
}

/// The real clocks of this machine.
#[test]
fn openings_one_after_the_other_leave_no_lag() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.idem");
    let mut before = None;
    for _ in 0..5 {
        let engine = crate::common::small(Engine::options()).open(&path).unwrap();
        assert!(Some(engine.now()) >= before);
        let lag = engine.stats().clock_lag_ms;
        assert!((-1_000..1_000).contains(&lag), "the clock lags by {lag} ms");
        fresh(&default_scope(&engine), "key").release().unwrap();
        before = Some(engine.now());
        engine.close().unwrap();
    }
}
