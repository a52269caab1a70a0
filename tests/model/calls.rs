//! The calls of a script, each with what it was answered compared to what it may be.

use std::time::Duration;

use idemkv::{
    Begin, BeginError, Busy, Claim, ClaimError, ClaimToken, CommitError, CompleteInError, Completion,
    Durability, EndError, Fence, ForgetError, Interruption, Outcome, Record, ResolveError, Status, Timestamp,
    TokenError,
};

use crate::key::{Answer, Ask, Attempt, Info, Kept, NEVER, Reply, Seen, State, ms};
use crate::script::{Call, KEYS, Who};
use crate::world::{
    BODY_MAX, Facts, Given, HELD_MAX, Held, Key, TOKENS_MAX, World, fingerprint, have_effect, key_name,
};

/// What a call on a claim does to its key, where the claim is good.
struct After {
    live: State,
    disk: Disk,
}

/// What an opening finds of it.
enum Disk {
    /// What it would have found before.
    AsBefore,
    This(State),
    /// Or what it would have found before.
    Perhaps(State),
}

/// Runs a script, and looks at all keys at its end, killed before or not; panics where an answer
/// is not one of those that were promised.
pub fn run(world: &mut World, calls: impl Iterator<Item = Call>, is_killed: bool) {
    // What becomes of the disk when the power goes, which it does in the middle of some later
    // call.
    let (mut kind, mut again) = (0, None);
    for call in calls {
        world.settle();
        world.fence_before = world.fence_max;
        if let Call::Crash(after, how) | Call::CrashAgain(after, how) = call {
            kind = how;
            again = matches!(call, Call::CrashAgain(..)).then_some(u64::from(how / 4));
            world.disk.crash_at(world.disk.operations() + u64::from(after % 16));
        }
        world.carry_out(call);
        if world.disk.crashed() {
            world.reboot(kind, again);
        }
    }
    world.settle();
    if is_killed {
        world.kill();
    }
    world.walk();
}

fn body(choice: u8) -> Vec<u8> {
    let len = [0, 1, 17, 120, BODY_MAX, BODY_MAX + 1][usize::from(choice) % 6];
    vec![choice; len]
}

/// Times that a completion says for itself: of the record, of its tombstone.
fn times(choice: u8) -> (Option<u64>, Option<u64>) {
    let second = 1_000;
    match choice % 10 {
        1 => (Some(1), None),
        2 => (Some(10 * second), None),
        3 => (Some(3_600 * second), None),
        4 => (None, Some(300 * second)),
        5 => (Some(10 * second), Some(20 * second)),
        6 => (Some(200 * second), None),
        7 => (Some(0), None),
        8 => (Some(10 * second), Some(second)),
        _ => (None, None),
    }
}

fn completion(choice: u8) -> Completion {
    let (ttl, tombstone) = times(choice);
    let mut completion = Completion::new();
    if let Some(ttl) = ttl {
        completion = completion.ttl(Duration::from_millis(ttl));
    }
    if let Some(tombstone) = tombstone {
        completion = completion.tombstone_ttl(Duration::from_millis(tombstone));
    }
    if choice % 10 == 9 { completion.discard_body() } else { completion }
}

impl World {
    fn carry_out(&mut self, call: Call) {
        match call {
            Call::Begin(who) => self.begin(who),
            Call::BeginMany(who, which) => self.begin_many(who, which),
            Call::Complete(which, body, times) => self.complete(which, Outcome::Success, body, times),
            Call::Fail(which, body, times) => self.complete(which, Outcome::Failure, body, times),
            Call::CompleteMany(count, body) => self.complete_many(count, body),
            Call::CompleteIn(which, body) => self.complete_in(which, body),
            Call::Release(which) => self.release(which),
            Call::PutBack(which) => self.put_back(which),
            Call::Drop(which) => self.lose(which),
            Call::Note(which, note) => self.note(which, note),
            Call::Renew(which) => self.renew(which),
            Call::IntoToken(which) => self.hand_over(which),
            Call::Resume(which, scope, altered) => self.resume(which, scope, altered),
            Call::Resolve(who) => self.resolve(who, None),
            Call::ResolveIf(who, which) => self.resolve_if(who, which),
            Call::Forget(who) => self.forget(who),
            Call::Get(who) => self.see(who.place()),
            Call::Entries => self.walk(),
            Call::Declare(scope, choice) => self.set_policy(usize::from(scope) % 3, choice),
            Call::Flush => self.flush(),
            Call::Step => {
                self.engine().step();
                self.stepped();
            }
            Call::Checkpoint => {
                let checkpointed = self.engine().checkpoint();
                assert!(checkpointed.is_ok() || self.disk.crashed(), "checkpoint: {checkpointed:?}");
            }
            Call::Close => self.close(),
            Call::Kill => self.kill(),
            Call::Crash(..) | Call::CrashAgain(..) => {}
            Call::Advance(choice) => self.advance_some(choice),
            Call::AdvanceTo(which, by) => self.advance_to(which, by),
            Call::SetWall(choice) => self.set_wall(choice),
            Call::Sleep(choice) => {
                if self.sleep(choice) {
                    self.stepped();
                }
            }
            Call::Restart(choice) => self.restart(choice),
        }
    }

    /// The work of the background looks at every lease, and forgets what is no longer remembered.
    fn stepped(&mut self) {
        let now = self.now();
        for key in 0..self.keys.len() {
            self.touch(key);
            let Key { live, disk, .. } = &mut self.keys[key];
            if live.iter().any(|state| matches!(state, State::Interrupted { from, .. } if *from <= now)) {
                disk.push(State::Vacant);
            }
        }
    }

    fn flush(&mut self) {
        match self.engine().flush() {
            Ok(()) => {
                self.settle();
                let is_ending = |state: &State| matches!(state, State::Ending { .. });
                assert!(!self.keys.iter().any(|key| key.live.iter().any(is_ending)), "not flushed");
            }
            Err(error) => assert!(self.disk.crashed(), "flush: {error}"),
        }
    }
}

// Asking.
impl World {
    fn begin(&mut self, who: Who) {
        if self.held.len() < HELD_MAX {
            let answer = self.scope(who.scope).begin(key_name(who.key), fingerprint(who.request));
            self.begun(who, answer);
        }
    }

    fn begin_many(&mut self, who: Who, which: u8) {
        let keys: Vec<usize> = (0..KEYS).filter(|key| which >> key & 1 == 1).chain([who.key]).collect();
        if self.held.len() + keys.len() > HELD_MAX {
            return;
        }
        let batch: Vec<_> = keys.iter().map(|key| (key_name(*key), fingerprint(who.request))).collect();
        let answers = self.scope(who.scope).begin_many(&batch);
        assert_eq!(answers.len(), keys.len());
        let mut answers: Vec<_> = keys.into_iter().zip(answers).collect();
        // Which of them are granted where not all can be is not promised; those that were are what
        // the others met.
        answers.sort_by_key(|(_, answer)| !matches!(answer, Ok(Begin::Fresh(_))));
        for (key, answer) in answers {
            self.begun(Who { key, ..who }, answer);
        }
    }

    fn begun(&mut self, who: Who, answer: Result<Begin, BeginError>) {
        match answer {
            Ok(Begin::Fresh(claim)) => self.granted(who, Some(who.request), claim),
            Ok(Begin::InFlight(_)) | Err(BeginError::DuplicateInBatch { .. }) => {
                self.answered(who, &Answer::InFlight);
            }
            Ok(Begin::Done(record)) => self.answered(who, &Answer::Done(Reply::of(&record))),
            Err(BeginError::KeyReused) => self.answered(who, &Answer::Reused),
            Err(BeginError::Unresolved(lost)) => {
                self.answered(who, &Answer::Unresolved(Info::lost(&lost)));
                self.told_of(who, &lost);
            }
            Err(BeginError::Expired(left)) => self.answered(who, &Answer::Expired(Reply::left(&left))),
            Err(error) => self.not_granted(who, Some(who.request), &error),
        }
    }

    /// An operator looks at a key, and resolves what it saw; or what it saw some time ago.
    fn resolve_if(&mut self, who: Who, which: u8) {
        let status = match self.scope(who.scope).get(key_name(who.key)) {
            Ok(status) => status,
            Err(error) => return assert!(self.disk.crashed(), "get: {error}"),
        };
        self.saw(who.place(), &Seen::of(&status));
        let seen = match status {
            Status::Interrupted(lost) if !which.is_multiple_of(4) => Some(lost.fence()),
            _ => usize::from(which / 4).checked_rem(self.fences.len()).map(|which| self.fences[which]),
        };
        if let Some(seen) = seen {
            self.resolve(who, Some(seen));
        }
    }

    fn resolve(&mut self, who: Who, only: Option<Fence>) {
        if self.held.len() == HELD_MAX {
            return;
        }
        let (scope, key) = (self.scope(who.scope), key_name(who.key));
        let resolved = match only {
            Some(fence) => scope.resolve_if(key, fence),
            None => scope.resolve(key),
        };
        match resolved {
            Ok(claim) => {
                let told = claim.interrupted().map(|lost| lost.fence());
                assert!(only.is_none() || told == only, "{who:?}: {told:?} is resolved, not {only:?}");
                self.granted(who, None, claim);
            }
            Err(ResolveError::AnotherAttempt(lost)) => {
                assert!(only.is_some_and(|only| only != lost.fence()), "{who:?}: {lost:?} is {only:?}");
                self.touch(who.place());
                self.saw(who.place(), &Seen::Interrupted(Info::lost(&lost)));
            }
            Err(ResolveError::NotInterrupted(status)) => {
                self.touch(who.place());
                let found = Seen::of(&status);
                assert!(!matches!(found, Seen::Interrupted(_)), "an interrupted key is not resolved");
                self.saw(who.place(), &found);
            }
            Err(ResolveError::Begin(error)) => self.not_granted(who, None, &error),
            Err(error) => panic!("resolve: {error}"),
        }
    }

    /// A begin was answered without a claim.
    fn answered(&mut self, who: Who, found: &Answer) {
        self.touch(who.place());
        let policy = self.policy(who.scope);
        let ask = Ask { request: Some(who.request), policy: &policy, now: self.now() };
        let live = &mut self.keys[who.place()].live;
        let before = live.clone();
        live.retain(|state| ask.answers(state).iter().any(|(answer, _)| answer.is(found)));
        assert!(!live.is_empty(), "{who:?} is answered {found:#?}, may be {before:#?}");
        if let Answer::Unresolved(told) = found {
            self.saw(who.place(), &Seen::Interrupted(*told));
        }
    }

    /// A begin was told of an interruption that nobody has resolved.
    fn told_of(&mut self, who: Who, lost: &Interruption) {
        let now = self.now();
        let (at, note) = (lost.interrupted_at().as_millis(), lost.last_progress().map(|note| note.to_vec()));
        assert!(
            lost.started().as_millis() <= at && at <= now,
            "{who:?} was interrupted at {at}, and it is {now}"
        );
        assert_eq!(*lost.fingerprint(), fingerprint(who.request));
        let live = &mut self.keys[who.place()].live;
        let before = live.clone();
        live.retain(|state| state.attempt().is_some_and(|attempt| attempt.notes.contains(&note)));
        assert!(!live.is_empty(), "{who:?} is told of the progress {note:?}, may be {before:#?}");
    }

    /// A begin or a resolve was answered with a claim.
    fn granted(&mut self, who: Who, request: Option<usize>, claim: Claim) {
        self.touch(who.place());
        let (policy, now) = (self.policy(who.scope), self.now());
        let fence = claim.fence().get();
        assert!(fence > self.fence_before, "fence {fence} is not above {}", self.fence_before);
        self.fence_max = self.fence_max.max(fence);
        self.fences.push(claim.fence());
        let started = claim.started().as_millis();
        let info = Info { fence: Some(fence), number: claim.attempt(), started };
        let note = claim.last_progress().map(|note| note.to_vec());
        let found = Answer::Fresh { info, told: claim.interrupted().as_ref().map(Info::lost), note };
        let ask = Ask { request, policy: &policy, now };
        let had_token = self.tokens.iter().any(|given| given.key == who.place());
        let key = &mut self.keys[who.place()];
        let answers = key.live.iter().flat_map(|state| ask.answers(state));
        let attempts = answers.filter(|(answer, _)| answer.is(&found)).filter_map(|(_, attempt)| attempt);
        let until = policy.get_lease().map_or(NEVER, |lease| now.saturating_add(ms(lease)));
        let told = claim.interrupted().as_ref().map(Info::lost);
        let live: Vec<State> = attempts
            .map(|attempt| Attempt { info, earlier: told, ..attempt })
            .map(|attempt| State::Out { attempt, until, token_until: None })
            .collect();
        assert!(!live.is_empty(), "{who:?} at {now} is granted {found:#?}, may be {:#?}", key.live);
        assert_eq!(claim.key(), key_name(who.key).as_bytes());
        assert_eq!(claim.lease_until().map(Timestamp::as_millis), policy.get_lease().map(|_| until));
        let requests = live.iter().filter_map(State::attempt).map(|attempt| fingerprint(attempt.request));
        assert!(requests.into_iter().any(|request| request == *claim.fingerprint()));
        let is_logged = policy.get_durability() == Durability::Full;
        // Where the file may still know of another in its place, it is told all the same.
        let may_be_logged = told.is_none() && key.is_interrupted() || key.is_detached_on_disk() || had_token;
        key.live.clone_from(&live);
        if is_logged {
            key.disk = live;
            self.acknowledged();
        } else if may_be_logged {
            key.disk.extend(live);
        }
        let limit = policy.get_max_in_flight();
        if let Some(limit) = limit {
            let out = self.claims_out(who.scope).0;
            assert!(out < limit, "{out} claims of scope {} are out already", who.scope);
        }
        let (durability, resolves) = (policy.get_durability(), request.is_none());
        let (key, is_counted) = (who.place(), limit.is_some());
        let (kept, has_lease) = (Kept::by(&policy), policy.get_lease().is_some());
        let facts =
            Facts { key, fence, kept, has_lease, durability, is_logged, may_be_logged, resolves, is_counted };
        self.held.push(Held { claim, facts });
    }

    /// A begin or a resolve that should have been granted was not.
    fn not_granted(&mut self, who: Who, request: Option<usize>, error: &BeginError) {
        self.touch(who.place());
        let policy = self.policy(who.scope);
        let ask = Ask { request, policy: &policy, now: self.now() };
        let had_token = self.tokens.iter().any(|given| given.key == who.place());
        let key = &mut self.keys[who.place()];
        let answers: Vec<_> = key.live.iter().flat_map(|state| ask.answers(state)).collect();
        let attempts: Vec<Attempt> = answers.into_iter().filter_map(|(_, attempt)| attempt).collect();
        if let BeginError::Busy(Busy::TooManyClaims { max }) = error {
            // Another member of the same batch may have been granted it meanwhile.
            let is_just_out = |state: &State| {
                state.attempt().is_some_and(|attempt| attempt.info.started == ask.now)
                    && matches!(state, State::Out { .. })
            };
            let may_be = !attempts.is_empty() || key.live.iter().any(is_just_out);
            assert!(may_be, "{who:?} is busy, and is {:#?}", key.live);
            assert_eq!(policy.get_max_in_flight().map(|max| max as usize), Some(*max));
            let most = self.claims_out(who.scope).1;
            // In a batch, a grant that a crash cut off was out meanwhile.
            assert!(most as usize >= *max || self.disk.crashed(), "{who:?} is busy, with {most} claims out");
            return;
        }
        assert!(self.disk.crashed(), "{who:?}: {error}");
        let may_be_logged = key.is_interrupted() || key.is_detached_on_disk() || had_token;
        if policy.get_durability() == Durability::Full || may_be_logged {
            let until = policy.get_lease().map_or(NEVER, |lease| ask.now.saturating_add(ms(lease)));
            let out = |attempt| State::Out { attempt, until, token_until: None };
            let cut_off: Vec<State> = attempts.into_iter().map(out).collect();
            // The rest of a batch may have met it.
            key.live.extend(cut_off.iter().cloned());
            key.disk.extend(cut_off);
        }
    }

    /// How many claims of a scope its limit counts: at least, at most. One whose lease ran out may
    /// count until somebody looks.
    fn claims_out(&self, scope: usize) -> (u32, u32) {
        let now = self.now();
        let held = self.held.iter().map(|held| held.facts);
        let held = held.filter(|held| held.key / KEYS == scope && held.is_counted);
        let (mut least, mut most) = (0, 0);
        for held in held {
            let is_good = |state: &State| state.is_good(held.fence, now);
            least += u32::from(self.keys[held.key].live.iter().all(is_good));
            most += 1;
        }
        for key in scope * KEYS..(scope + 1) * KEYS {
            let live = &self.keys[key].live;
            // A claim may have been handed over twice.
            least += u32::from(self.tokens.iter().any(|given| {
                let stands = |state: &State| state.standing(given.fence, now).is_some();
                given.key == key && given.is_counted && live.iter().all(stands)
            }));
            // Also one whose token a crash kept from being given out.
            most += u32::from(live.iter().any(|state| matches!(state, State::Detached { .. })));
        }
        (least, most)
    }
}

impl Who {
    /// Its place among all keys.
    fn place(self) -> usize {
        self.scope * KEYS + self.key
    }
}

impl Facts {
    /// What a release makes of a key.
    fn released(self, attempt: &Attempt, now: u64) -> After {
        match attempt.earlier {
            Some(told) if !self.resolves => {
                let stands = State::lost(attempt.clone(), told, now, now);
                After { live: stands.clone(), disk: Disk::This(stands) }
            }
            earlier => {
                // What the disk knows nothing of leaves nothing to undo there.
                let is_known = self.is_logged || earlier.is_some();
                let disk = match (is_known, self.may_be_logged) {
                    (true, _) => Disk::This(State::Vacant),
                    (false, true) => Disk::Perhaps(State::Vacant),
                    (false, false) => Disk::AsBefore,
                };
                After { live: State::Vacant, disk }
            }
        }
    }
}

// Ending.
impl World {
    fn take(&mut self, which: u8) -> Option<(Claim, Facts)> {
        let which = usize::from(which).checked_rem(self.held.len())?;
        let Held { claim, facts } = self.held.swap_remove(which);
        Some((claim, facts))
    }

    /// A call on a claim succeeded.
    fn succeeded(&mut self, facts: Facts, after: impl Fn(&Attempt, u64, Option<u64>) -> After) {
        let now = self.now();
        let key = &mut self.keys[facts.key];
        let before = std::mem::take(&mut key.live);
        let mut disk = Vec::new();
        let mut is_durable = false;
        for state in &before {
            let State::Out { attempt, until, token_until } = state else { continue };
            if state.is_good(facts.fence, now) {
                let after = after(attempt, *until, *token_until);
                key.live.push(after.live);
                is_durable |= matches!(after.disk, Disk::This(_));
                match after.disk {
                    Disk::AsBefore => {}
                    Disk::This(state) | Disk::Perhaps(state) => disk.push(state),
                }
            }
        }
        assert!(!key.live.is_empty(), "{facts:?} is not good at {now}, but was used: {before:#?}");
        if is_durable {
            key.disk = disk;
            self.acknowledged();
        } else {
            key.disk.extend(disk);
        }
    }

    /// A crash cut a call on a claim off.
    fn cut_off(&mut self, facts: Facts, after: impl Fn(&Attempt, u64, Option<u64>) -> After) {
        let key = &mut self.keys[facts.key];
        for state in &key.live {
            if let State::Out { attempt, until, token_until } = state {
                match after(attempt, *until, *token_until).disk {
                    Disk::AsBefore => {}
                    Disk::This(state) | Disk::Perhaps(state) => key.disk.push(state),
                }
            }
        }
    }

    /// A claim is told that it is not the current one, or that its lease is over, and what became
    /// of its key.
    fn superseded(&mut self, facts: Facts, status: &Status) {
        let now = self.now();
        self.keys[facts.key].live.retain(|state| !state.is_good(facts.fence, now));
        assert!(
            !self.keys[facts.key].live.is_empty(),
            "{facts:?} is good at {now}, but superseded: {status:?}"
        );
        self.touch(facts.key);
        self.saw(facts.key, &Seen::of(status));
    }

    /// The end of a claim failed. Gives the reason where the claim came back.
    fn not_ended(
        &mut self,
        facts: Facts,
        error: EndError,
        after: impl Fn(&Attempt, u64, Option<u64>) -> After,
    ) -> Option<ClaimError> {
        let reason = error.reason().clone();
        let claim = error.into_claim();
        match &reason {
            ClaimError::Superseded(status) => {
                assert!(claim.is_none(), "a superseded claim came back");
                self.superseded(facts, status);
                None
            }
            ClaimError::Commit(CommitError::Failed(_) | CommitError::Busy(_)) => {
                assert!(self.disk.crashed(), "{facts:?}: {reason}");
                self.cut_off(facts, after);
                None
            }
            ClaimError::BodyTooLarge { .. } | ClaimError::Option(_) | ClaimError::NoLease => {
                let claim = claim.expect("a claim that is refused comes back");
                self.held.push(Held { claim, facts });
                Some(reason)
            }
            reason => panic!("{facts:?}: {reason}"),
        }
    }

    fn complete(&mut self, which: u8, outcome: Outcome, body_of: u8, times_of: u8) {
        let Some((claim, facts)) = self.take(which) else { return };
        let body = body(body_of);
        let completed = match outcome {
            Outcome::Success => claim.complete_with(&body, completion(times_of)),
            Outcome::Failure => claim.fail_with(&body, completion(times_of)),
        };
        self.completed(facts, outcome, &body, times_of, completed);
    }

    fn complete_many(&mut self, count: u8, body_of: u8) {
        let count = usize::from(count) % 4;
        let taken: Vec<_> = (0..count).map_while(|_| self.take(0)).collect();
        let facts: Vec<_> = taken.iter().map(|(_, facts)| *facts).collect();
        let body = body(body_of);
        let batch = taken.into_iter().map(|(claim, _)| (claim, &body)).collect();
        let completed = self.engine().complete_many(batch);
        assert_eq!(completed.len(), facts.len());
        let keys: Vec<_> = facts.iter().map(|facts| facts.key).collect();
        let mut ends: Vec<_> = facts.into_iter().zip(completed).collect();
        ends.sort_by_key(|(_, completed)| completed.is_err());
        for (facts, completed) in ends {
            let is_superseded = |error: &EndError| matches!(error.reason(), ClaimError::Superseded(_));
            let of_its_key = keys.iter().filter(|key| **key == facts.key).count();
            if of_its_key > 1 && completed.as_ref().is_err_and(is_superseded) {
                // It is told of the one that took over, which ends in the same batch, as it was
                // before or after that.
                let now = self.now();
                let is_good = |state: &State| state.is_good(facts.fence, now);
                assert!(!self.keys[facts.key].live.iter().all(is_good), "{facts:?} is good, but superseded");
                continue;
            }
            self.completed(facts, Outcome::Success, &body, 0, completed);
        }
    }

    fn completed(
        &mut self,
        facts: Facts,
        outcome: Outcome,
        body: &[u8],
        times_of: u8,
        completed: Result<Record, EndError>,
    ) {
        let is_kept = times_of % 10 != 9;
        let now = self.now();
        let (ttl, tombstone) = times(times_of);
        let kept = facts.kept.with(ttl, tombstone);
        let reply = |attempt: &Attempt| {
            let kept = kept.unwrap_or(facts.kept);
            Reply {
                request: attempt.request,
                attempt: attempt.info,
                outcome,
                completed: now,
                expires: now.saturating_add(kept.ttl),
                remembered_until: now.saturating_add(kept.remembered),
                body: is_kept.then(|| body.to_vec()),
            }
        };
        let done = |attempt: &Attempt, _, _| {
            let done = State::Done(reply(attempt));
            After { live: done.clone(), disk: Disk::This(done) }
        };
        match completed {
            Ok(record) => {
                let found = Reply::of(&record);
                let expected = self.keys[facts.key].live.iter().filter_map(State::attempt).map(reply);
                assert!(
                    expected.into_iter().any(|reply| reply == found),
                    "{facts:?} is stored as {found:#?}"
                );
                assert!(kept.is_some(), "times that are not possible");
                if matches!(facts.durability, Durability::Relaxed(_)) && !record.is_durable() {
                    self.succeeded(facts, |attempt, _, _| {
                        let (attempt, reply, record) = (attempt.clone(), reply(attempt), record.clone());
                        let disk = Disk::Perhaps(State::Done(reply.clone()));
                        After { live: State::Ending { attempt, reply, record }, disk }
                    });
                } else {
                    assert!(record.is_durable(), "acknowledged before it is durable");
                    self.succeeded(facts, done);
                }
            }
            Err(error) => match self.not_ended(facts, error, done) {
                Some(ClaimError::Option(_)) => assert_eq!(kept, None, "times are refused"),
                Some(ClaimError::BodyTooLarge { len, max }) => {
                    assert_eq!((len, max), (body.len(), BODY_MAX));
                    assert!(len > max && is_kept, "a body of {len} bytes is refused");
                }
                Some(reason) => panic!("{facts:?}: {reason}"),
                None => {}
            },
        }
    }

    fn complete_in(&mut self, which: u8, body_of: u8) {
        let Some((claim, facts)) = self.take(which) else { return };
        let body = body(body_of);
        let completed = claim.complete_in(|tables| have_effect(tables, facts.fence).map(|()| &body));
        match completed {
            Ok(record) => {
                assert!(record.is_durable(), "acknowledged before it is durable");
                self.effects.insert(facts.fence);
                let durable = Facts { durability: Durability::Full, ..facts };
                self.completed(durable, Outcome::Success, &body, 0, Ok(record));
            }
            Err(CompleteInError::End(error)) => {
                if self.disk.crashed() {
                    self.cut_effect = Some((facts.key, facts.fence));
                }
                self.completed(facts, Outcome::Success, &body, 0, Err(error));
            }
            Err(CompleteInError::Work { error, .. }) => assert!(self.disk.crashed(), "{facts:?}: {error}"),
            Err(error) => panic!("{facts:?}: {error}"),
        }
    }

    fn release(&mut self, which: u8) {
        let Some((claim, facts)) = self.take(which) else { return };
        let now = self.now();
        let after = |attempt: &Attempt, _, _| facts.released(attempt, now);
        self.given_back(facts, claim.release(), after);
    }

    /// Nothing was done with a claim.
    fn put_back(&mut self, which: u8) {
        let Some((claim, facts)) = self.take(which) else { return };
        let now = self.now();
        let after = |attempt: &Attempt, _, token_until: Option<u64>| match State::put_back(attempt) {
            stands @ State::Interrupted { .. } if token_until.is_none() => {
                After { live: stands.clone(), disk: Disk::This(stands) }
            }
            // A token may have had other holders before.
            _ => facts.released(attempt, now),
        };
        self.given_back(facts, claim.put_back(), after);
    }

    fn given_back(
        &mut self,
        facts: Facts,
        ended: Result<(), EndError>,
        after: impl Fn(&Attempt, u64, Option<u64>) -> After,
    ) {
        match ended {
            Ok(()) => self.succeeded(facts, after),
            Err(error) => {
                let came_back = self.not_ended(facts, error, after);
                assert!(came_back.is_none(), "a claim can't be given back: {came_back:?}");
            }
        }
    }

    /// A worker loses its way.
    fn lose(&mut self, which: u8) {
        let Some((claim, facts)) = self.take(which) else { return };
        drop(claim);
        let now = self.now();
        let is_it = |attempt: &Attempt| attempt.info.fence == Some(facts.fence);
        let lost = |attempt: Attempt, until: u64| {
            let info = attempt.info;
            State::lost(attempt, info, until.min(now), now)
        };
        let key = &mut self.keys[facts.key];
        for state in &mut key.live {
            if let State::Out { attempt, until, .. } = state
                && is_it(attempt)
            {
                *state = lost(attempt.clone(), *until);
            }
        }
        // A claim that was taken up from a token is, for the disk, still a token's.
        let on_disk = key.disk.iter().filter_map(|state| match state {
            State::Out { attempt, until, token_until: None } if is_it(attempt) => {
                Some(lost(attempt.clone(), *until))
            }
            State::Out { attempt, .. } | State::Detached { attempt, .. } if is_it(attempt) => {
                Some(lost(attempt.clone(), now))
            }
            _ => None,
        });
        let on_disk: Vec<_> = on_disk.collect();
        key.disk.extend(on_disk);
    }
}

// Using.
impl World {
    fn note(&mut self, which: u8, choice: u8) {
        let Some(which) = usize::from(which).checked_rem(self.held.len()) else { return };
        let note = body(choice);
        let Held { claim, facts } = &mut self.held[which];
        let noted = claim.save_progress(&note);
        let facts = *facts;
        let after = |attempt: &Attempt, until, token_until| {
            let attempt = Attempt { notes: vec![Some(note.clone())], ..attempt.clone() };
            let noted = State::Out { attempt, until, token_until };
            After { live: noted.clone(), disk: Disk::This(noted) }
        };
        match noted {
            Ok(()) => {
                self.succeeded(facts, after);
                self.held[which].facts.is_logged = true;
            }
            Err(ClaimError::BodyTooLarge { len, max }) => {
                assert!(len == note.len() && len > max, "a note of {len} bytes is refused");
            }
            Err(ClaimError::Superseded(status)) => self.superseded(facts, &status),
            Err(error) => {
                assert!(self.disk.crashed(), "{facts:?}: {error}");
                self.cut_off(facts, after);
                // The disk may know of the claim by now, and not yet of the note.
                self.cut_off(facts, |attempt, until, token_until| {
                    let out = State::Out { attempt: attempt.clone(), until, token_until };
                    After { live: out.clone(), disk: Disk::This(out) }
                });
            }
        }
    }

    fn renew(&mut self, which: u8) {
        let Some(which) = usize::from(which).checked_rem(self.held.len()) else { return };
        let Held { claim, facts } = &self.held[which];
        let (renewed, facts, now) = (claim.renew(), *facts, self.now());
        match renewed {
            Ok(()) => self.succeeded(facts, |attempt, until, token_until| {
                let until = attempt.lease.map_or(until, |lease| now.saturating_add(lease));
                After {
                    live: State::Out { attempt: attempt.clone(), until, token_until },
                    disk: Disk::AsBefore,
                }
            }),
            Err(ClaimError::Superseded(status)) => self.superseded(facts, &status),
            Err(error) => panic!("{facts:?}: {error}"),
        }
    }

    fn hand_over(&mut self, which: u8) {
        let Some((claim, facts)) = self.take(which) else { return };
        if self.tokens.len() == TOKENS_MAX {
            self.tokens.remove(0);
        }
        let now = self.now();
        let after = |attempt: &Attempt, _, _| {
            let until = now.saturating_add(attempt.lease.unwrap_or_default());
            let handed = State::Detached { attempt: attempt.clone(), until };
            After { live: handed.clone(), disk: Disk::This(handed) }
        };
        match claim.into_token() {
            Ok(token) => {
                self.succeeded(facts, after);
                let Facts { key, fence, is_counted, .. } = facts;
                let opening = self.openings;
                self.handed_in.insert(fence, (opening, opening));
                self.tokens.push(Given { token, key, fence, is_counted, opening });
            }
            Err(error) => {
                self.handed_in.entry(facts.fence).or_default().1 = self.openings;
                let came_back = self.not_ended(facts, error, after);
                assert!(came_back.is_none() || !facts.has_lease, "a token is refused: {came_back:?}");
            }
        }
    }

    fn resume(&mut self, which: u8, scope: u8, altered: u8) {
        let Some(which) = usize::from(which).checked_rem(self.tokens.len()) else { return };
        if self.held.len() == HELD_MAX {
            return;
        }
        let Given { token, key, fence, is_counted, opening } = &self.tokens[which];
        let (key, fence, is_counted, opening) = (*key, *fence, *is_counted, *opening);
        let (handed_in, perhaps) = self.handed_in[&fence];
        let mut bytes = token.as_bytes().to_vec();
        let own = key / KEYS;
        let scope = if scope % 8 == 7 { (own + 1) % 3 } else { own };
        if altered % 8 == 7 {
            // Not the file's number: that would be another file's.
            let at = 16 + usize::from(altered) % (bytes.len() - 16);
            bytes[at] ^= 1 << (altered / 32);
        }
        let resumed = self.scope(scope).resume(&ClaimToken::from_bytes(bytes));
        let (now, policy) = (self.now(), self.policy(own));
        let durability = policy.get_durability();
        let mut facts = Facts {
            key,
            fence,
            kept: Kept::by(&policy),
            has_lease: true,
            durability,
            is_logged: true,
            may_be_logged: true,
            resolves: false,
            is_counted,
        };
        match resumed {
            Err(TokenError::Malformed) => assert_eq!(altered % 8, 7, "a token is malformed"),
            _ if altered % 8 == 7 => panic!("an altered token is answered with {resumed:?}"),
            Err(TokenError::OtherScope) => assert_ne!(scope, own, "a token of its own scope is refused"),
            Ok(claim) => {
                assert_eq!((scope, claim.fence().get()), (own, fence));
                assert!(opening >= handed_in, "a token is taken that a later opening has made anew");
                let found = (claim.attempt(), claim.interrupted().as_ref().map(Info::lost));
                let note = claim.last_progress().map(|note| note.to_vec());
                let live = std::mem::take(&mut self.keys[key].live);
                for state in &live {
                    let Some((attempt, until)) = state.standing(fence, now) else { continue };
                    if found == (attempt.info.number, attempt.earlier) && attempt.notes.contains(&note) {
                        facts.kept = attempt.kept;
                        let attempt = Attempt { notes: vec![note.clone()], ..attempt.clone() };
                        let taken_up = State::Out { attempt, until, token_until: Some(until) };
                        self.keys[key].live.push(taken_up);
                    }
                }
                let taken_up = !self.keys[key].live.is_empty();
                assert!(taken_up, "{facts:?} is taken up with {found:?}, {note:?}, may be {live:#?}");
                self.held.push(Held { claim, facts });
            }
            Err(TokenError::Held) => {
                assert!(
                    self.held.iter().any(|held| held.facts.fence == fence),
                    "{facts:?} is held by nobody"
                );
                self.keys[key].live.retain(|state| state.is_good(fence, now));
                assert!(!self.keys[key].live.is_empty(), "{facts:?} is not good");
            }
            Err(TokenError::Superseded(_)) if opening < perhaps => {}
            Err(TokenError::Superseded(status)) => {
                self.keys[key].live.retain(|state| state.standing(fence, now).is_none());
                assert!(!self.keys[key].live.is_empty(), "{facts:?} stands, but is superseded");
                self.superseded(facts, &status);
            }
            Err(error) => assert!(self.disk.crashed(), "{facts:?}: {error}"),
        }
    }

    fn forget(&mut self, who: Who) {
        let forgotten = self.scope(who.scope).forget(key_name(who.key));
        self.touch(who.place());
        let now = self.now();
        let key = &mut self.keys[who.place()];
        let is_out = |state: &State| matches!(state.seen(now)[0], Seen::InFlight(_));
        match forgotten {
            Ok(was_there) => {
                let before = key.live.clone();
                let fits = |state: &State| {
                    let mut seen = state.seen(now).into_iter();
                    !is_out(state) && seen.any(|seen| (seen != Seen::Vacant) == was_there)
                };
                key.live.retain(fits);
                assert!(!key.live.is_empty(), "{who:?} is forgotten: {was_there}, and is {before:#?}");
                // Also an interruption whose time was over does not come back.
                let is_written = |state: &State| was_there || matches!(state, State::Interrupted { .. });
                if key.live.iter().all(is_written) {
                    (key.live, key.disk) = (vec![State::Vacant], vec![State::Vacant]);
                }
                if was_there {
                    self.acknowledged();
                }
            }
            Err(ForgetError::InFlight) => {
                key.live.retain(is_out);
                assert!(!key.live.is_empty(), "{who:?} is in flight");
            }
            Err(error) => {
                assert!(self.disk.crashed(), "{who:?}: {error}");
                key.disk.push(State::Vacant);
            }
        }
    }
}
