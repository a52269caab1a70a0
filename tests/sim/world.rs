//! A disk, a clock, an oracle, and scripts that run on them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use idemkv::sim::{CrashKind, ManualClock, SimDisk};
use idemkv::{Engine, Timestamp};

use crate::calls::Callers;
use crate::flip::Flips;
use crate::harm::{Harm, Trouble};
use crate::moments::Watch;
use crate::oracle::{Expect, Oracle};
use crate::script::{Op, Script};
use crate::setting::{KEYS, SCOPES, fingerprint, name, options, policy_of};

/// One of so many recovered files is used on, for so many operations.
const AFTERLIFE_OF: u64 = 32;
const AFTERLIFE: usize = 12;

/// What scripts that crash nowhere must come to, some of them at least, or crashes prove nothing
/// about it.
pub(crate) const TO_MEET: [&str; 27] = [
    "batch of claims",
    "begin given up on its way",
    "begin of a key handed over",
    "begin of a tombstone",
    "begin over a forgotten interruption",
    "begin over an interruption",
    "progress given up on its way",
    "claim put back",
    "completion in a transaction",
    "completion that nobody waited for",
    "forgotten tombstone",
    "inherited progress",
    "opening with claims handed over",
    "opening with tombstones",
    "panic with a claim",
    "reclaim with tombstones",
    "relaxed reply",
    "replay",
    "reply without a body",
    "resolution of another attempt",
    "resolved key",
    "resumed claim",
    "superseded claim",
    "superseded token",
    "task that was granted",
    "unresolved key",
    "waiter that was woken",
];

thread_local! {
    /// Where the world was that failed last.
    static FAILED_AT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Where a script is, kept where it fails.
pub(crate) struct Context(pub(crate) String);

impl Context {
    /// Where this thread's last failure was.
    pub(crate) fn take_failed() -> Option<String> {
        FAILED_AT.take()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The innermost one comes first, and knows most.
            FAILED_AT.with_borrow_mut(|at| _ = at.get_or_insert_with(|| std::mem::take(&mut self.0)));
        }
    }
}

pub(crate) struct World {
    pub(crate) context: Context,
    pub(crate) disk: SimDisk,
    pub(crate) clock: ManualClock,
    pub(crate) oracle: Oracle,
    /// What is looked at while the script runs.
    pub(crate) watch: Watch,
    /// Bits that flip.
    pub(crate) flips: Option<Flips>,
    /// What the script came to, and how often.
    pub(crate) met: BTreeMap<&'static str, u32>,
    /// What is wrong with the disk.
    harm: Option<Harm>,
    /// A call was told that a commit failed.
    pub(crate) failed: bool,
    /// One had been told before the begin that is under way.
    pub(crate) failed_before: bool,
    /// Keys from 0 on that are used, and looked at.
    keys: u64,
    declared: u32,
}

impl World {
    pub(crate) fn new(watch: Watch) -> Self {
        Self {
            context: Context(String::new()),
            disk: SimDisk::new(),
            clock: ManualClock::at_millis(crate::setting::START_MS),
            oracle: Oracle::default(),
            watch,
            flips: None,
            met: BTreeMap::new(),
            harm: None,
            failed: false,
            failed_before: false,
            keys: KEYS,
            declared: 0,
        }
    }

    /// What a crash left.
    pub(crate) fn of_crash(
        disk: SimDisk,
        clock: ManualClock,
        oracle: Oracle,
        watch: Watch,
        keys: u64,
        at: String,
    ) -> Self {
        Self { context: Context(at), disk, clock, oracle, keys, ..Self::new(watch) }
    }

    pub(crate) fn harmed(harm: Harm) -> Self {
        let world = Self { harm: Some(harm), ..Self::new(Watch::nothing()) };
        harm.arm(&world.disk);
        world
    }

    pub(crate) fn meet(&mut self, what: &'static str, is_met: bool) {
        if is_met {
            *self.met.entry(what).or_insert(0) += 1;
        }
    }

    pub(crate) fn has_tombstone(&self, now: Timestamp) -> bool {
        (0..self.keys).any(|key| matches!(self.oracle.at(key, now), Expect::Expired(_)))
    }

    /// A call of the engine: whatever the disk does during it, the oracle knows it as under way.
    pub(crate) fn during<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let before = self.disk.operations();
        let result = call();
        for moment in self.disk.take_moments() {
            self.watch.look(&moment, &self.oracle, &self.clock, self.keys, &self.context.0);
        }
        if let Some(flips) = self.flips.as_mut().filter(|_| self.disk.operations() > before) {
            flips.under_way = self.oracle.clone();
        }
        result
    }

    /// Whether something is wrong with the disk, or was.
    pub(crate) fn is_harmed(&self) -> bool {
        self.harm.is_some_and(|harm| harm.has_struck(&self.disk))
    }

    /// Whether a disk that was full is the worst of it.
    pub(crate) fn is_only_full(&self) -> bool {
        self.harm.is_none_or(Harm::is_only_full)
    }

    /// A call ended with an error. It must be excused; whether it changed nothing.
    pub(crate) fn is_unchanged_by(&mut self, what: &str, trouble: Trouble) -> bool {
        if self.disk.crashed() {
            return false;
        }
        let excused = self.is_harmed() && trouble != Trouble::Other;
        assert!(excused, "{what} failed");
        assert!(
            trouble != Trouble::Failed || !self.harm.is_none_or(Harm::is_harmless),
            "{what} failed for good over a full disk or a failed read"
        );
        self.failed |= trouble == Trouble::Failed;
        trouble != Trouble::Failed
    }

    fn open(&mut self) -> Option<Engine> {
        let options = options(&self.disk, &self.clock);
        self.failed = false;
        match self.during(|| options.clone().open("x.idem")) {
            Ok(engine) => Some(engine),
            Err(_) if self.disk.crashed() => None,
            Err(error) => {
                assert!(self.is_harmed(), "does not open: {error}");
                self.disk.mend();
                self.disk.restart_process();
                Some(options.open("x.idem").unwrap_or_else(|error| panic!("still does not open: {error}")))
            }
        }
    }

    /// Runs a script until its end or the crash.
    pub(crate) fn run(&mut self, script: &Script) {
        self.context.0 = self.harm.map_or_else(|| "whole".to_owned(), |harm| format!("{harm:?}"));
        self.clock.jump_wall_to_millis(script.start_ms);
        self.watch.start(&self.disk);
        let Some(engine) = self.open() else { return };
        self.oracle.time_durable = engine.now();
        self.oracle.time_max = engine.now();
        self.declare_missing(&engine);
        self.go_on(engine, script);
    }

    /// Opens what a crash left, compares it, and sometimes lets life go on for a while.
    pub(crate) fn recover(&mut self, seed: u64) {
        self.watch.start(&self.disk);
        let engine = self.open().expect("the power is back");
        self.oracle.check(&engine, self.keys, &self.context.0);
        self.declare_missing(&engine);
        self.begin(&engine, seed % self.keys, &mut Callers::default());
        if seed.is_multiple_of(AFTERLIFE_OF) && self.keys == KEYS {
            self.go_on(engine, &Script::draw(seed, AFTERLIFE));
            self.disk = self.disk.image(CrashKind::DropAll);
            self.clock.reboot();
            self.oracle.has_booted = true;
            let engine = self.open().expect("the power is back");
            self.oracle.check(&engine, self.keys, &self.context.0);
        }
        // What a close would write is not looked at.
        self.disk.crash_at(self.disk.operations());
    }

    /// Runs a history on a file that is there, and looks at all that its last operation may leave.
    pub(crate) fn run_history(&mut self, history: &[Op], watch: Watch) {
        let mut engine = self.open().expect("nothing is wrong with the disk");
        let mut callers = Callers::default();
        let (last, before) = history.split_last().expect("something happens");
        for op in before {
            engine = self.perform(engine, &mut callers, *op).expect("nothing is wrong with the disk");
        }
        self.watch = watch;
        self.watch.start(&self.disk);
        let engine = self.perform(engine, &mut callers, *last);
        self.disk.crash_at(self.disk.operations());
        drop(engine);
    }

    /// Runs a script on a file that is open.
    pub(crate) fn go_on(&mut self, mut engine: Engine, script: &Script) {
        let before = self.context.0.clone();
        let mut callers = Callers::default();
        let mut full = None;
        for (number, op) in script.ops.iter().enumerate() {
            if self.disk.crashed() {
                return;
            }
            self.context.0 = format!("{before}, operation {number} of the script: {op:?}");
            let Some(same) = self.perform(engine, &mut callers, *op) else { return };
            engine = same;
            self.oracle.time_max = self.oracle.time_max.max(engine.now());
            self.flip_bits();
            if let Some(Harm::Full { ops, .. }) = self.harm.filter(|_| self.is_harmed()) {
                let since = *full.get_or_insert(number);
                if number == since + ops {
                    self.free_room(&engine);
                }
            }
        }
        self.context.0 = format!("{before}, at the end of the script");
        if self.harm.is_some() {
            self.disk.mend();
            for kind in [CrashKind::KeepAll, CrashKind::DropAll, CrashKind::Torn(script.seed)] {
                let at = format!("{}, {kind:?}", self.context.0);
                let (image, oracle) = (self.disk.image(kind), self.oracle.clone());
                let mut world =
                    Self::of_crash(image, self.clock.fork(), oracle, Watch::nothing(), self.keys, at);
                world.recover(script.seed);
                self.watch.images += 1;
            }
        }
        drop(callers);
        self.during(|| drop(engine));
    }

    /// Does one operation; gives the engine that is open after it, unless the power is gone.
    fn perform(&mut self, engine: Engine, callers: &mut Callers, op: Op) -> Option<Engine> {
        if op == Op::Reopen {
            callers.claims.clear();
            return self.reopen(engine, callers);
        }
        self.operate(&engine, callers, op);
        Some(engine)
    }

    fn reopen(&mut self, engine: Engine, callers: &mut Callers) -> Option<Engine> {
        let now = engine.now();
        self.oracle.time_max = self.oracle.time_max.max(now);
        match self.during(|| engine.close()) {
            Ok(_) => {
                self.oracle.settle(Timestamp::from_millis(u64::MAX));
                self.oracle.time_durable = now;
            }
            Err(_) if self.disk.crashed() => return None,
            Err(error) => assert!(self.is_harmed(), "does not close: {error}"),
        }
        callers.all_are_woken();
        let engine = self.open()?;
        self.meet("opening with tombstones", self.has_tombstone(engine.now()));
        let standing = (0..self.keys).any(|key| self.oracle.may_stand(key, engine.now()));
        self.meet("opening with claims handed over", standing);
        let stood = std::mem::take(&mut self.harm);
        if stood.is_some() {
            self.disk.mend();
        }
        self.oracle.check(&engine, self.keys, &format!("{}, after a close", self.context.0));
        self.declare_missing(&engine);
        self.harm = stood;
        Some(engine)
    }

    /// Room comes back on a full disk: the engine goes on by itself.
    fn free_room(&mut self, engine: &Engine) {
        self.disk.mend();
        self.clock.advance(Duration::from_secs(1));
        self.oracle.time_max = self.oracle.time_max.max(engine.now());
        self.during(|| engine.step());
        if !self.failed {
            let claim = match engine.default_scope().begin(name(u64::MAX), fingerprint(u64::MAX)) {
                Ok(idemkv::Begin::Fresh(claim)) => claim,
                other => panic!("the disk has room again, and the engine does not go on: {other:?}"),
            };
            self.oracle.saw_fence(&claim);
            claim.release().expect("the disk has room again");
        }
    }

    fn flip_bits(&mut self) {
        if let Some(flips) = &mut self.flips {
            let images = flips.look(&self.disk, &self.oracle, &self.clock, self.keys, &self.context.0);
            self.watch.images += images;
        }
    }

    pub(crate) fn set_policy(&mut self, engine: &Engine, scope: &'static str) {
        self.declared += 1;
        let policy = policy_of(engine, scope, self.declared);
        self.oracle.start_policy(engine, scope, policy);
        match self.during(|| engine.set_policy(scope, policy)) {
            Ok(_) => self.oracle.policy_is(scope, policy),
            Err(error) => {
                if self.is_unchanged_by(&format!("declare: {error}"), (&error).into()) {
                    self.oracle.policy_is_refused(scope);
                }
            }
        }
    }

    /// Declares what no opening before has.
    fn declare_missing(&mut self, engine: &Engine) {
        if self.keys < KEYS {
            return;
        }
        for scope in SCOPES {
            if engine.scope(scope).policy() == engine.policy() && !self.disk.crashed() {
                self.set_policy(engine, scope);
            }
        }
    }
}

/// Whether a scope has the policy that its keys are judged by.
pub(crate) fn is_declared(engine: &Engine, scope: &str) -> bool {
    scope.is_empty() || engine.scope(scope).policy() != engine.policy()
}
