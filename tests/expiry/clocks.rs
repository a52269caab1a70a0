//! Random histories of all clocks: boot clock, wall clock and boot id, stops, sleeps, kills, power
//! cuts, reboots, backups and other machines. The engine's time is the one that a model of time
//! gives.
//!
//! The model is written from docs/operations.md, "Time". Where a crash leaves open what the file
//! knows, it gives a range.

use std::time::Duration;

use crate::common::budget::Budget;
use crate::common::random::Random;
use crate::common::{START_MS, default_scope, fresh, small};
use idemkv::sim::{CrashKind, ManualClock, SimDisk};
use idemkv::{Completion, Engine, Status};

const HOUR_MS: u64 = 3_600_000;
const YEAR_MS: u64 = 365 * 24 * HOUR_MS;
/// A wall clock that is set later than that is read as that.
const WALL_MAX: u64 = i64::MAX.cast_unsigned();
/// Openings of a history.
const OPENINGS: u64 = 6;
/// Outlives every history.
const LONG_TTL: Duration = Duration::from_millis(100 * YEAR_MS);

/// Some time, from a millisecond to a year.
fn any_span(random: &mut Random) -> u64 {
    let most = random.one_of(&[1, 50, 1_500, 60_000, HOUR_MS, 3 * HOUR_MS, 40 * 24 * HOUR_MS, YEAR_MS]);
    random.below(most + 1)
}

/// A machine, as its clocks show it, and as it is.
struct Machine {
    clock: ManualClock,
    wall: u64,
    /// What the boot clock shows.
    uptime: u64,
    /// The boot, if the machine says which.
    boot: Option<(u64, u64)>,
    /// Which machine it is, and how often it has booted since.
    number: u64,
    boots: u64,
    /// How much time has gone by.
    truth: u64,
    /// Nobody ever set a clock.
    is_honest: bool,
}

impl Machine {
    fn new() -> Self {
        Self {
            clock: ManualClock::at_millis(START_MS),
            wall: START_MS,
            uptime: 0,
            boot: Some((START_MS, 0)),
            number: START_MS,
            boots: 0,
            truth: 0,
            is_honest: true,
        }
    }

    fn wall(&self) -> u64 {
        self.wall.min(WALL_MAX)
    }

    fn pass(&mut self, millis: u64, is_asleep: bool) {
        let span = Duration::from_millis(millis);
        if is_asleep {
            self.clock.sleep(span);
        } else {
            self.clock.advance(span);
        }
        self.wall = self.wall.wrapping_add(millis);
        self.uptime += millis;
        self.truth += millis;
    }

    fn set_wall(&mut self, random: &mut Random) {
        let (span, years) = (any_span(random), random.below(60) * YEAR_MS);
        let walls = [
            0,
            START_MS,
            START_MS + self.truth,
            START_MS + self.truth,
            START_MS + years,
            START_MS.saturating_sub(years),
            self.wall.wrapping_add(span),
            self.wall.wrapping_sub(span),
            u64::MAX,
        ];
        self.wall = random.one_of(&walls);
        self.clock.jump_wall_to_millis(self.wall);
        self.is_honest = false;
    }

    fn reboot(&mut self) {
        self.boots += 1;
        self.clock.reboot();
        self.uptime = 0;
        self.boot = Some((self.number, self.boots));
    }

    fn hide_boot(&mut self) {
        self.clock.hide_boot();
        self.boot = None;
    }

    /// A virtual machine is put back, or forward; the boot is the same.
    fn jump_boot(&mut self, random: &mut Random) {
        let span = any_span(random);
        self.uptime = random.one_of(&[self.uptime.saturating_sub(span), self.uptime + span]);
        self.clock.jump_boot_to_millis(self.uptime);
        self.is_honest = false;
    }
}

/// A file that nobody has open, and what it may know.
#[derive(Clone)]
struct File {
    disk: SimDisk,
    /// The engine's time and the highest wall clock that were certainly noted, and the latest that
    /// may have been.
    sure: (u64, u64),
    most: (u64, u64),
    /// In which boot it was open, and what the boot clock showed at the end.
    boot: Option<(u64, u64)>,
    uptime: u64,
    /// It has no key for certain, or for certain not.
    is_empty: bool,
    may_be_empty: bool,
    /// When it got its long-lived key: the engine's time, and the true one.
    key_at: Option<(u64, u64)>,
    /// How often a wall clock has counted since.
    counted: u64,
}

/// An engine that is open, and what the model says of it.
struct Open {
    engine: Engine,
    file: File,
    now: u64,
    /// A sleep that the engine has not noticed.
    asleep: u64,
    /// Until when a key with a short life is kept.
    short_until: u64,
}

struct History {
    random: Random,
    machine: Machine,
    jump_max: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let jump_max = random.one_of(&[HOUR_MS, HOUR_MS, HOUR_MS, 0, 2 * YEAR_MS]);
        let mut machine = Machine::new();
        match random.below(8) {
            0 => machine.set_wall(&mut random),
            1 => machine.hide_boot(),
            2 => machine.pass(YEAR_MS, true),
            _ => {}
        }
        Self { random, machine, jump_max }
    }

    fn open_engine(&self, disk: &SimDisk) -> Engine {
        let options = small(Engine::options()).disk(disk).clock(&self.machine.clock).stepped().seed(1);
        let options = options.max_clock_jump(Duration::from_millis(self.jump_max));
        options.ttl(LONG_TTL).open("x.idem").unwrap()
    }

    fn first(&self) -> Open {
        let disk = SimDisk::new();
        let engine = self.open_engine(&disk);
        let (now, wall) = (self.machine.wall(), self.machine.wall());
        assert_eq!(engine.now().as_millis(), now, "a new file starts at the wall clock");
        let file = File {
            disk,
            sure: (now, wall),
            most: (now, wall),
            boot: self.machine.boot,
            uptime: self.machine.uptime,
            is_empty: true,
            may_be_empty: true,
            key_at: None,
            counted: 0,
        };
        Open { engine, file, now, asleep: 0, short_until: 0 }
    }

    /// What the engine's time may be when a file is opened: from, to, and whether it may be, or
    /// must be, the wall clock if that is later.
    fn expected(&self, file: &File) -> (u64, u64) {
        let machine = &self.machine;
        let counted = |wall_max: u64| machine.wall().saturating_sub(wall_max).min(self.jump_max);
        let by_wall = (file.sure.0 + counted(file.most.1), file.most.0 + counted(file.sure.1));
        if machine.boot.is_none() || machine.boot != file.boot {
            return by_wall;
        }
        match machine.uptime.checked_sub(file.uptime) {
            Some(stop) => (file.most.0 + stop, file.most.0 + stop),
            // Put back: it may still be later than the mark.
            None => (file.sure.0, by_wall.1),
        }
    }

    fn open(&mut self, mut file: File) -> Open {
        let (from, to) = self.expected(&file);
        let engine = self.open_engine(&file.disk);
        let (now, wall) = (engine.now().as_millis(), self.machine.wall());
        let in_range = (from..=to).contains(&now);
        let at_wall = now == wall && wall >= from;
        let fits = if file.is_empty {
            // The later of both.
            at_wall || in_range && now >= wall
        } else {
            in_range || at_wall && file.may_be_empty
        };
        assert!(
            fits,
            "opened at {now}, not at {from} to {to}; the wall clock shows {wall}, and the file {} empty",
            if file.is_empty { "is" } else { "is not" }
        );
        if self.machine.is_honest {
            assert!(now <= START_MS + self.machine.truth, "the engine is ahead of true clocks");
        }
        if self.machine.boot.is_none() || self.machine.boot != file.boot || self.machine.uptime < file.uptime
        {
            file.counted += 1;
        }
        if let Some((time, truth)) = file.key_at {
            let (went_by, most) = (now - time, self.machine.truth - truth + file.counted * self.jump_max);
            assert!(went_by <= most, "{went_by} ms by the engine, at most {most} by what can be known");
            assert!(matches!(engine.default_scope().get("long").unwrap(), Status::Done(_)));
        }
        let wall_max = file.most.1.max(wall);
        file.sure = (now, file.sure.1.max(wall));
        file.most = (now, wall_max);
        file.boot = self.machine.boot;
        file.is_empty = file.key_at.is_none() && (file.is_empty || at_wall && !in_range);
        Open { engine, file, now, asleep: 0, short_until: 0 }
    }

    /// Something is durable, and the clocks with it.
    fn noted(&self, open: &mut Open) {
        open.file.sure = (open.now, open.file.sure.1.max(self.machine.wall()));
    }

    fn live(&mut self, open: &mut Open) {
        for _ in 0..self.random.below(7) {
            match self.random.below(12) {
                0..3 => self.machine.pass_open(open, any_span(&mut self.random), false),
                3 | 4 => self.machine.pass_open(open, any_span(&mut self.random), true),
                5 => {
                    self.machine.set_wall(&mut self.random);
                    if self.random.below(2) == 0 {
                        self.step(open);
                    }
                }
                6 | 7 => self.step(open),
                8 => {
                    open.notice();
                    open.engine.checkpoint().unwrap();
                    self.noted(open);
                }
                9 => {
                    fresh(&default_scope(&open.engine), "released").release().unwrap();
                    // Nothing is left of it but frames, and perhaps rows.
                    open.file.is_empty = false;
                    self.noted(open);
                }
                10 if open.file.key_at.is_none() => {
                    fresh(&default_scope(&open.engine), "long").complete("reply").unwrap();
                    open.file.key_at = Some((open.now, self.machine.truth - open.asleep));
                    (open.file.is_empty, open.file.may_be_empty) = (false, false);
                    self.noted(open);
                }
                _ => self.complete_short(open),
            }
            open.file.most.1 = open.file.most.1.max(self.machine.wall());
            assert_eq!(open.engine.now().as_millis(), open.now, "while the file is open");
            open.check_short();
        }
    }

    fn step(&self, open: &mut Open) {
        open.notice();
        open.engine.step();
        // It may have written the time, or not.
        open.file.is_empty = false;
        open.file.most.1 = open.file.most.1.max(self.machine.wall());
    }

    fn complete_short(&mut self, open: &mut Open) {
        if open.now < open.short_until {
            return;
        }
        let ttl = 1 + any_span(&mut self.random);
        let Ok(idemkv::Begin::Fresh(claim)) =
            open.engine.default_scope().begin("short", crate::common::request())
        else {
            return;
        };
        let short = Completion::new().ttl(Duration::from_millis(ttl));
        claim.complete_with("reply", short).unwrap();
        open.short_until = open.now + ttl;
        open.file.is_empty = false;
        self.noted(open);
    }

    fn leave(&mut self, mut open: Open) -> File {
        let disk = open.file.disk.clone();
        let how = self.random.below(4);
        if how < 2 {
            open.notice();
            open.engine.close().unwrap();
            open.file.sure.0 = open.now;
            open.file.sure.1 = open.file.sure.1.max(self.machine.wall());
            // Whether a key of its own time is left, only the store can tell.
        } else {
            open.now += open.asleep;
            disk.crash_at(disk.operations());
            drop(open.engine);
            if how == 2 {
                disk.restart_process();
            } else {
                disk.reboot(if self.random.below(2) == 0 { CrashKind::DropAll } else { CrashKind::KeepAll });
            }
        }
        // The time up to the end, which a boot clock knows.
        open.file.most.0 = open.now;
        open.file.uptime = self.machine.uptime;
        if how == 3 {
            // In another boot nobody knows of a sleep that was not noticed.
            self.machine.reboot();
        }
        open.file
    }

    /// What happens while the file is closed.
    fn rest(&mut self) {
        for _ in 0..self.random.below(5) {
            match self.random.below(11) {
                0..3 => self.machine.pass(any_span(&mut self.random), false),
                3 | 4 => self.machine.pass(any_span(&mut self.random), true),
                5 | 6 => self.machine.set_wall(&mut self.random),
                7 | 8 => self.machine.reboot(),
                9 => self.machine.hide_boot(),
                _ => {
                    let before = self.machine.uptime;
                    self.machine.jump_boot(&mut self.random);
                    self.machine.truth += self.machine.uptime.saturating_sub(before);
                }
            }
        }
        if self.random.below(16) == 0 {
            // Another machine. Its wall clock shows the same.
            let number = self.machine.number + 1;
            let elsewhere = ManualClock::at_millis(number);
            elsewhere.jump_wall_to_millis(self.machine.wall);
            let uptime = any_span(&mut self.random);
            elsewhere.jump_boot_to_millis(uptime);
            self.machine = Machine {
                clock: elsewhere,
                uptime,
                boot: Some((number, 0)),
                number,
                boots: 0,
                ..self.machine
            };
        }
    }

    fn play(&mut self) {
        let mut open = self.first();
        let mut backup: Option<File> = None;
        for _ in 0..OPENINGS {
            self.live(&mut open);
            let mut file = self.leave(open);
            if self.random.below(4) == 0 {
                backup = Some(File { disk: file.disk.image(CrashKind::KeepAll), ..file.clone() });
            }
            self.rest();
            if self.random.below(6) == 0
                && let Some(backup) = &backup
            {
                file = File { disk: backup.disk.image(CrashKind::KeepAll), ..backup.clone() };
            }
            open = self.open(file);
        }
        // What a close would write is not looked at.
        open.file.disk.crash_at(open.file.disk.operations());
    }
}

impl Machine {
    fn pass_open(&mut self, open: &mut Open, millis: u64, is_asleep: bool) {
        self.pass(millis, is_asleep);
        if is_asleep {
            open.asleep += millis;
        } else {
            open.now += millis;
        }
    }
}

impl Open {
    fn notice(&mut self) {
        self.now += std::mem::take(&mut self.asleep);
    }

    fn check_short(&self) {
        if self.short_until > 0 {
            let is_kept = matches!(self.engine.default_scope().get("short").unwrap(), Status::Done(_));
            assert_eq!(is_kept, self.now < self.short_until, "at {}, until {}", self.now, self.short_until);
        }
    }
}

#[test]
fn random_histories_of_all_clocks_give_the_time_of_the_model() {
    let rig = "expiry::clocks::random_histories_of_all_clocks_give_the_time_of_the_model";
    let mut budget = Budget::new(rig, "histories of clocks", 200);
    while let Some(seed) = budget.next_seed() {
        History::new(seed).play();
        budget.count(1);
    }
}
