//! A disk, a clock, and scripts of operations on them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use idemkv::sim::{CrashKind, ManualClock, SimDisk};
use idemkv::{
    Begin, BeginError, Claim, ClaimError, Completion, Engine, Fence, ForgetError, Outcome, ResolveError,
    Timestamp, TokenError,
};

use crate::moments::Watch;
use crate::oracle::{Expect, Left, Oracle, Reply, Token};
use crate::script::{Op, Random, Script};
use crate::{KEYS, LEASE, LEASED_FROM, START_MS, TOMBSTONE_TTL, TTL, fingerprint, name, options, scope};

/// One of so many recovered files is used on, for so many operations.
const AFTERLIFE_OF: u64 = 32;
const AFTERLIFE: usize = 12;

/// What scripts that crash nowhere must come to, some of them at least, or crashes prove nothing about it.
pub(crate) const TO_MEET: [&str; 15] = [
    "begin of a tombstone",
    "begin over an interruption",
    "begin over a forgotten interruption",
    "begin of a key handed over",
    "replay",
    "reply without a body",
    "forgotten tombstone",
    "reclaim with tombstones",
    "opening with tombstones",
    "opening with claims handed over",
    "inherited checkpoint",
    "superseded claim",
    "resumed claim",
    "superseded token",
    "resolved key",
];

/// A claim in the hands of the script.
pub(crate) struct Held {
    claim: Claim,
    resolves: bool,
}

impl Held {
    fn is_over(&self, now: Timestamp) -> bool {
        self.claim.lease_until().is_some_and(|until| until <= now)
    }
}

pub(crate) type Claims = HashMap<u64, Held>;

fn is_held(claims: &Claims, key: u64, now: Timestamp) -> bool {
    claims.get(&key).is_some_and(|held| !held.is_over(now))
}

/// The first key from this one on that is one, so that scripts do little in vain.
fn nearest(key: u64, is_one: impl Fn(u64) -> bool) -> u64 {
    (0..KEYS).map(|n| (key + n) % KEYS).find(|key| is_one(*key)).unwrap_or(key)
}

fn body(random: &mut Random, fence: Fence) -> Vec<u8> {
    let len = if random.below(4) == 0 { 4_000 } else { random.below(300) };
    let mut body = fence.get().to_le_bytes().to_vec();
    body.resize(8 + usize::try_from(len).unwrap(), b'b');
    body
}

/// How a claim is completed.
struct Ending {
    completion: Completion,
    keeps_body: bool,
    ttl: Duration,
    remembered: Duration,
}

impl Ending {
    /// Usually nothing special.
    fn draw(random: &mut Random) -> Self {
        let plain = Completion::new();
        let usual = Self { completion: plain, keeps_body: true, ttl: TTL, remembered: TOMBSTONE_TTL };
        match random.below(8) {
            0 => Self { completion: plain.tombstone_ttl(TTL), remembered: TTL, ..usual },
            1 => Self { completion: plain.ttl(TTL / 8), ttl: TTL / 8, ..usual },
            2 => Self { completion: plain.discard_body(), keeps_body: false, ..usual },
            _ => usual,
        }
    }

    fn reply(&self, outcome: Outcome, body: &[u8], fence: Fence, now: Timestamp) -> Reply {
        Reply {
            outcome,
            body: self.keeps_body.then(|| body.to_vec()),
            fence,
            expires: now.saturating_add(self.ttl),
            remembered_until: now.saturating_add(self.remembered),
        }
    }
}

/// Where a script is, told on standard error where it fails.
pub(crate) struct Context(pub(crate) String);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
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
    /// What the script came to, and how often.
    pub(crate) met: BTreeMap<&'static str, u32>,
    declared: u32,
}

impl World {
    pub(crate) fn new(watch: Watch) -> Self {
        Self {
            context: Context(String::new()),
            disk: SimDisk::new(),
            clock: ManualClock::at_millis(START_MS),
            oracle: Oracle::default(),
            watch,
            met: BTreeMap::new(),
            declared: 0,
        }
    }

    /// What a crash left.
    pub(crate) fn of_crash(
        disk: SimDisk,
        clock: ManualClock,
        oracle: Oracle,
        watch: Watch,
        at: String,
    ) -> Self {
        Self { context: Context(at), disk, clock, oracle, ..Self::new(watch) }
    }

    fn meet(&mut self, what: &'static str, is_met: bool) {
        if is_met {
            *self.met.entry(what).or_insert(0) += 1;
        }
    }

    fn has_tombstone(&self, now: Timestamp) -> bool {
        (0..KEYS).any(|key| matches!(self.oracle.at(key, now), Expect::Expired(_)))
    }

    /// A call of the engine: whatever the disk does during it, the oracle knows it as under way.
    pub(crate) fn during<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let result = call();
        for moment in self.disk.take_moments() {
            self.watch.look(&moment, &self.oracle, &self.clock, &self.context.0);
        }
        result
    }

    fn open(&mut self) -> Option<Engine> {
        let options = options(&self.disk, &self.clock);
        match self.during(|| options.open("x.idem")) {
            Ok(engine) => Some(engine),
            Err(error) => {
                assert!(self.disk.crashed(), "does not open: {error}");
                None
            }
        }
    }

    /// Runs a script until its end or the crash.
    pub(crate) fn run(&mut self, script: &Script) {
        "at the first opening".clone_into(&mut self.context.0);
        self.watch.start(&self.disk);
        let Some(engine) = self.open() else { return };
        self.declare(&engine);
        self.go_on(engine, script);
    }

    /// Opens what a crash left, compares it, and sometimes lets life go on for a while.
    pub(crate) fn recover(&mut self, seed: u64) {
        self.watch.start(&self.disk);
        let engine = self.open().expect("the power is back");
        self.oracle.check(&engine, &self.context.0);
        self.begin(&engine, seed % KEYS, &mut HashMap::new());
        if seed.is_multiple_of(AFTERLIFE_OF) {
            self.go_on(engine, &Script::draw(seed, AFTERLIFE));
            self.disk = self.disk.image(CrashKind::DropAll);
            let engine = self.open().expect("the power is back");
            self.oracle.check(&engine, &self.context.0);
        }
        // What a close would write is not looked at.
        self.disk.crash_at(self.disk.operations());
    }

    /// Runs a script on a file that is open.
    pub(crate) fn go_on(&mut self, mut engine: Engine, script: &Script) {
        let before = self.context.0.clone();
        let mut claims = HashMap::new();
        for (number, op) in script.ops.iter().enumerate() {
            if self.disk.crashed() {
                return;
            }
            self.context.0 =
                format!("{before}, seed {}, operation {number} of the script: {op:?}", script.seed);
            let Some(same) = self.perform(engine, &mut claims, *op) else { return };
            engine = same;
        }
        self.context.0 = format!("{before}, seed {}, at the end of the script", script.seed);
        drop(claims);
        self.during(|| drop(engine));
    }

    /// Runs a history on a file that is there, and looks at all that its last operation may leave.
    pub(crate) fn run_history(&mut self, history: &[Op], watch: Watch) {
        let mut engine = self.open().expect("nothing is wrong with the disk");
        let mut claims = HashMap::new();
        let (last, before) = history.split_last().expect("something happens");
        for op in before {
            engine = self.perform(engine, &mut claims, *op).expect("nothing is wrong with the disk");
        }
        self.watch = watch;
        self.watch.start(&self.disk);
        let engine = self.perform(engine, &mut claims, *last);
        self.disk.crash_at(self.disk.operations());
        drop(engine);
    }

    /// Does one operation; gives the engine that is open after it, unless the power is gone.
    fn perform(&mut self, engine: Engine, claims: &mut Claims, op: Op) -> Option<Engine> {
        if op == Op::Reopen {
            claims.clear();
            return self.reopen(engine);
        }
        self.operate(&engine, claims, op);
        Some(engine)
    }

    fn reopen(&mut self, engine: Engine) -> Option<Engine> {
        if let Err(error) = self.during(|| engine.close()) {
            assert!(self.disk.crashed(), "does not close: {error}");
            return None;
        }
        let engine = self.open()?;
        self.meet("opening with tombstones", self.has_tombstone(engine.now()));
        let standing = (0..KEYS).any(|key| self.oracle.may_stand(key, engine.now()));
        self.meet("opening with claims handed over", standing);
        self.oracle.check(&engine, "after a clean close");
        Some(engine)
    }

    fn operate(&mut self, engine: &Engine, claims: &mut Claims, op: Op) {
        let held = |key| nearest(key, |key| claims.contains_key(&key));
        match op {
            Op::Begin { key } => self.begin(engine, key, claims),
            Op::Finish { key, outcome, seed } => self.finish(engine, held(key), claims, outcome, seed),
            Op::Release { key } => self.release(engine, held(key), claims),
            Op::DropClaim { key } => {
                let key = held(key);
                drop(claims.remove(&key));
            }
            Op::Forget { key } => self.forget(engine, key, claims),
            Op::Checkpoint => self.upkeep(engine, |engine| drop(engine.checkpoint())),
            Op::Step => self.upkeep(engine, |engine| _ = engine.step()),
            Op::Advance { seconds } => self.clock.advance(Duration::from_secs(seconds)),
            Op::Note { key, seed } => self.note(engine, held(key), claims, seed),
            Op::HandOver { key } => self.hand_over(engine, held(key.max(LEASED_FROM)), claims),
            Op::TakeUp { key } => {
                let handed_over = nearest(key, |key| self.oracle.tokens.contains_key(&key));
                self.take_up(engine, handed_over, claims);
            }
            Op::Resolve { key } => self.resolve(engine, key, claims),
            Op::Declare => self.declare(engine),
            Op::Reopen => unreachable!("needs the engine itself"),
        }
    }

    fn upkeep(&mut self, engine: &Engine, keep_up: impl Fn(&Engine)) {
        let before = engine.stats().reclaimed_blocks;
        self.during(|| keep_up(engine));
        let reclaimed = engine.stats().reclaimed_blocks > before;
        self.meet("reclaim with tombstones", reclaimed && self.has_tombstone(engine.now()));
    }

    fn declare(&mut self, engine: &Engine) {
        self.declared += 1;
        let policy = engine.policy().lease(LEASE).max_in_flight(100 + self.declared);
        self.oracle.start_policy(engine, policy);
        match self.during(|| engine.declare("leased", policy)) {
            Ok(_) => self.oracle.policy_is(policy),
            Err(error) => assert!(self.disk.crashed(), "declare failed: {error}"),
        }
    }

    fn granted(&mut self, engine: &Engine, key: u64, held: Held, claims: &mut Claims) {
        let (claim, now) = (&held.claim, engine.now());
        let is_told = claim.interrupted().is_some();
        let forgotten = !is_told && self.oracle.at(key, now).attempt() > 0;
        self.oracle.saw_claim(key, claim, now);
        self.meet("begin over an interruption", is_told);
        self.meet("begin over a forgotten interruption", forgotten);
        self.meet("inherited checkpoint", claim.last_checkpoint().is_some());
        if let Some(late) = claims.insert(key, held) {
            assert!(late.is_over(now), "key {key} was granted twice");
            let refused = late.claim.complete("late").unwrap_err();
            assert!(matches!(refused.reason(), ClaimError::Superseded(_)), "key {key}: {refused}");
        }
    }

    pub(crate) fn begin(&mut self, engine: &Engine, key: u64, claims: &mut Claims) {
        let now = engine.now();
        let before = self.oracle.at(key, now);
        self.oracle.start_grant(key, now);
        match self.during(|| scope(engine, key).begin(name(key), fingerprint(key))) {
            Ok(Begin::Fresh(claim)) => self.granted(engine, key, Held { claim, resolves: false }, claims),
            Ok(Begin::InFlight(_)) => {
                let held = is_held(claims, key, now);
                let may_stand = self.oracle.may_stand(key, now);
                assert!(held || may_stand, "key {key} is in flight and nobody has it");
                self.meet("begin of a key handed over", !held);
                self.oracle.refuse();
            }
            Ok(Begin::Done(record)) => {
                assert_eq!(before, Expect::Done(Reply::of(&record)), "key {key} was replayed");
                assert!(record.expires() > now);
                self.meet("replay", true);
                self.oracle.refuse();
            }
            Err(BeginError::Expired(tombstone)) => {
                assert_eq!(before, Expect::Expired(Left::of(&tombstone)), "key {key} was told to be expired");
                self.meet("begin of a tombstone", true);
                self.oracle.refuse();
            }
            Err(error) => assert!(self.disk.crashed(), "begin failed: {error}"),
        }
    }

    fn resolve(&mut self, engine: &Engine, key: u64, claims: &mut Claims) {
        let now = engine.now();
        let earlier = self.oracle.at(key, now).attempt();
        self.oracle.start_grant(key, now);
        match self.during(|| scope(engine, key).resolve(name(key))) {
            Ok(claim) => {
                assert!(earlier > 0, "key {key} was not interrupted");
                self.granted(engine, key, Held { claim, resolves: true }, claims);
                self.meet("resolved key", true);
            }
            Err(ResolveError::NotInterrupted(is)) => {
                let has_holder = is_held(claims, key, now) || self.oracle.may_stand(key, now);
                let gone = earlier == 0 || self.oracle.may_be_forgotten(key, now);
                assert!(has_holder || gone, "key {key}: interruption {earlier} is {is:?}");
                self.oracle.refuse();
            }
            Err(error) => assert!(self.disk.crashed(), "resolve failed: {error}"),
        }
    }

    /// A claim was refused something: then its lease is over, or the power is gone.
    fn refused(&mut self, key: u64, is_over: bool, reason: &ClaimError) {
        if matches!(reason, ClaimError::Superseded(_)) {
            assert!(is_over, "key {key}: superseded before its lease was over");
            self.meet("superseded claim", true);
            self.oracle.refuse();
        } else {
            assert!(self.disk.crashed(), "key {key}: {reason}");
        }
    }

    fn note(&mut self, engine: &Engine, key: u64, claims: &mut Claims, seed: u64) {
        let Some(held) = claims.get_mut(&key) else { return };
        let (is_over, note) = (held.is_over(engine.now()), body(&mut Random::new(seed), held.claim.fence()));
        let before = self.oracle.start_note(key, note.clone());
        match self.during(|| held.claim.checkpoint(&note)) {
            Ok(()) => {
                assert!(!is_over, "key {key}: a superseded claim made a checkpoint");
                self.oracle.note_is(key, Some(note));
            }
            Err(error) => {
                if matches!(error, ClaimError::Superseded(_)) {
                    self.oracle.notes_are(key, before);
                }
                self.refused(key, is_over, &error);
            }
        }
    }

    fn hand_over(&mut self, engine: &Engine, key: u64, claims: &mut Claims) {
        let Some(held) = claims.remove(&key) else { return };
        let is_over = held.is_over(engine.now());
        let has_lease = held.claim.lease_until().is_some();
        let mut token = Token {
            attempt: held.claim.attempt(),
            until: engine.now().saturating_add(LEASE),
            given: None,
            must_stand: false,
        };
        let before = self.oracle.tokens.insert(key, token.clone());
        match self.during(|| held.claim.into_token()) {
            Ok(given) => {
                assert!(!is_over, "key {key}: a superseded claim was handed over");
                token.given = Some(given);
                token.must_stand = true;
                self.oracle.tokens.insert(key, token);
            }
            Err(error) if matches!(error.reason(), ClaimError::NoLease) => {
                assert!(!has_lease, "key {key} has a lease");
                self.oracle.tokens.remove(&key);
            }
            Err(error) => {
                if matches!(error.reason(), ClaimError::Superseded(_)) {
                    self.oracle.tokens.remove(&key);
                    self.oracle.tokens.extend(before.map(|before| (key, before)));
                }
                self.refused(key, is_over, error.reason());
            }
        }
    }

    fn take_up(&mut self, engine: &Engine, key: u64, claims: &mut Claims) {
        let now = engine.now();
        let Some(known) = self.oracle.tokens.get(&key).cloned() else { return };
        let Some(token) = &known.given else { return };
        let stands = known.stands(now);
        match self.during(|| scope(engine, key).resume(token)) {
            Ok(claim) => {
                assert!(now < known.until && claim.attempt() == known.attempt, "key {key}: {known:?}");
                self.oracle.tokens.insert(key, Token { must_stand: false, ..known });
                claims.insert(key, Held { claim, resolves: false });
                self.meet("resumed claim", true);
            }
            Err(TokenError::Superseded(_)) => {
                assert!(!stands, "key {key}: {known:?} does not stand");
                self.meet("superseded token", true);
            }
            Err(TokenError::Held) => assert!(is_held(claims, key, now)),
            Err(error) => assert!(self.disk.crashed(), "key {key}: {error}"),
        }
    }

    fn finish(&mut self, engine: &Engine, key: u64, claims: &mut Claims, outcome: Outcome, seed: u64) {
        let Some(held) = claims.remove(&key) else { return };
        let (now, claim) = (engine.now(), &held.claim);
        let is_over = held.is_over(now);
        let mut random = Random::new(seed);
        let body = body(&mut random, claim.fence());
        let ending = Ending::draw(&mut random);
        let reply = ending.reply(outcome, &body, claim.fence(), now);
        self.oracle.start(key, Expect::Done(reply.clone()));
        let ended = self.during(|| match outcome {
            Outcome::Success => held.claim.complete_with(body, ending.completion),
            Outcome::Failure => held.claim.fail_with(body, ending.completion),
        });
        match ended {
            Ok(record) => {
                assert!(!is_over, "key {key}: a superseded claim completed");
                assert_eq!(Reply::of(&record), reply, "key {key}");
                self.oracle.acknowledge_end(key);
                self.meet("reply without a body", !record.is_body_kept());
            }
            Err(error) => self.refused(key, is_over, error.reason()),
        }
    }

    fn release(&mut self, engine: &Engine, key: u64, claims: &mut Claims) {
        let Some(held) = claims.remove(&key) else { return };
        let (is_over, earlier) = (held.is_over(engine.now()), held.claim.interrupted());
        let after = match earlier {
            Some(earlier) if !held.resolves => Expect::Interrupted(earlier.attempt()),
            Some(_) | None => Expect::Vacant,
        };
        self.oracle.start(key, after);
        match self.during(|| held.claim.release()) {
            Ok(()) => {
                assert!(!is_over, "key {key}: a superseded claim was released");
                self.oracle.acknowledge_end(key);
            }
            Err(error) => self.refused(key, is_over, error.reason()),
        }
    }

    fn forget(&mut self, engine: &Engine, key: u64, claims: &Claims) {
        let now = engine.now();
        let held = is_held(claims, key, now);
        let stands = self.oracle.tokens.get(&key).is_some_and(|token| token.stands(now));
        let is_tombstone = matches!(self.oracle.at(key, now), Expect::Expired(_));
        self.oracle.start(key, Expect::Vacant);
        match self.during(|| scope(engine, key).forget(name(key))) {
            Ok(_) => {
                assert!(!held && !stands, "key {key} was forgotten under its holder");
                self.oracle.acknowledge_end(key);
                self.meet("forgotten tombstone", is_tombstone);
            }
            Err(ForgetError::InFlight) => {
                assert!(held || self.oracle.may_stand(key, now));
                self.oracle.refuse();
            }
            Err(error) => assert!(self.disk.crashed(), "forget failed: {error}"),
        }
    }
}
