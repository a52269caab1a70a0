//! What was promised of one key, as plainly as it can be said. Written from docs/guarantees.md and
//! the documentation of the calls.

use idemkv::{AttemptInfo, Interruption, Outcome, Policy, Record, Recovery, Status, Tombstone};

/// An attempt as others are told of it. The fence of one whose begin was cut off by a crash is not
/// known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    pub fence: Option<u64>,
    pub number: u32,
    pub started: u64,
}

impl Info {
    pub fn of(info: AttemptInfo) -> Self {
        Self { fence: Some(info.fence().get()), number: info.attempt(), started: info.started().as_millis() }
    }

    pub fn lost(lost: &Interruption) -> Self {
        let started = lost.started().as_millis();
        Self { fence: Some(lost.fence().get()), number: lost.attempt(), started }
    }

    fn is(&self, found: &Self) -> bool {
        let same_fence = self.fence.is_none() || found.fence.is_none() || self.fence == found.fence;
        same_fence && self.number == found.number && self.started == found.started
    }
}

/// How long a record is replayed and its key remembered, from its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub ttl: u64,
    pub remembered: u64,
}

pub fn ms(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap()
}

impl Kept {
    pub fn by(policy: &Policy) -> Self {
        let ttl = ms(policy.get_ttl());
        Self { ttl, remembered: policy.get_tombstone_ttl().map_or(ttl, ms) }
    }

    /// What a completion makes of it; `None` where that is out of range.
    pub fn with(self, ttl: Option<u64>, tombstone: Option<u64>) -> Option<Self> {
        let new = ttl.unwrap_or(self.ttl);
        // A tombstone stays where one would have stayed, and no shorter than the record.
        let kept = if self.remembered > self.ttl { self.remembered.max(new) } else { new };
        let remembered = tombstone.unwrap_or(kept);
        (new > 0 && remembered >= new).then_some(Self { ttl: new, remembered })
    }
}

/// A claim, out or lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub info: Info,
    pub request: usize,
    pub kept: Kept,
    pub lease: Option<u64>,
    /// How long it is remembered once it is interrupted; `None` until somebody resolves it.
    pub unresolved: Option<u64>,
    pub earlier: Option<Info>,
    /// What the key was before the claim was granted, if it was interrupted.
    pub before: Option<Before>,
    /// What the next attempt may find noted.
    pub notes: Vec<Option<Vec<u8>>>,
}

/// An interruption over which a claim was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    attempt: Box<Attempt>,
    told: Info,
    from: u64,
    to: u64,
}

impl Attempt {
    /// When it is no longer remembered, if it was found dead at that time.
    fn forgotten_after(&self, found: u64) -> u64 {
        self.unresolved.map_or(NEVER, |unresolved| found.saturating_add(unresolved))
    }
}

/// A stored result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub request: usize,
    pub attempt: Info,
    pub outcome: Outcome,
    pub completed: u64,
    pub expires: u64,
    pub remembered_until: u64,
    /// `None` where it was not kept.
    pub body: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub enum State {
    Vacant,
    /// Somebody holds a claim, which is good until then. One that was taken up from a token is,
    /// for the disk, still a token's.
    Out {
        attempt: Attempt,
        until: u64,
        token_until: Option<u64>,
    },
    /// A claim was handed over as a token, and stands until then.
    Detached {
        attempt: Attempt,
        until: u64,
    },
    /// A result was acknowledged and is not durable yet.
    Ending {
        attempt: Attempt,
        reply: Reply,
        record: Record,
    },
    /// The last claim ended without an outcome; `told` is the one that may have had an effect. It
    /// is remembered at least until `from`, and not at `to` any more: who counts from when the
    /// claim was found dead may have found it at once, or only when somebody looked.
    Interrupted {
        attempt: Attempt,
        told: Info,
        from: u64,
        to: u64,
    },
    Done(Reply),
}

pub const NEVER: u64 = u64::MAX;

/// What is seen of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Vacant,
    InFlight(Info),
    Interrupted(Info),
    Done(Reply),
    /// The body is gone.
    Expired(Reply),
}

impl Seen {
    pub fn of(status: &Status) -> Self {
        match status {
            Status::Vacant => Self::Vacant,
            Status::InFlight(info) => Self::InFlight(Info::of(*info)),
            Status::Interrupted(lost) => Self::Interrupted(Info::lost(lost)),
            Status::Done(record) => Self::Done(Reply::of(record)),
            Status::Expired(tombstone) => Self::Expired(Reply::left(tombstone)),
            other => panic!("{other:?}"),
        }
    }

    fn is(&self, found: &Self) -> bool {
        match (self, found) {
            (Self::InFlight(info), Self::InFlight(found))
            | (Self::Interrupted(info), Self::Interrupted(found)) => info.is(found),
            (Self::Done(reply), Self::Done(found)) => reply == found,
            (Self::Expired(reply), Self::Expired(found)) => reply.is_left_as(found),
            (Self::Vacant, Self::Vacant) => true,
            _ => false,
        }
    }
}

impl Reply {
    pub fn of(record: &Record) -> Self {
        Self {
            request: super::world::request_of(record.fingerprint()),
            attempt: Info {
                fence: Some(record.fence().get()),
                number: record.attempt(),
                started: record.started().as_millis(),
            },
            outcome: record.outcome(),
            completed: record.completed().as_millis(),
            expires: record.expires().as_millis(),
            remembered_until: record.remembered_until().as_millis(),
            body: record.is_body_kept().then(|| record.body().to_vec()),
        }
    }

    pub fn left(tombstone: &Tombstone) -> Self {
        Self {
            request: super::world::request_of(tombstone.fingerprint()),
            attempt: Info { fence: Some(tombstone.fence().get()), number: tombstone.attempt(), started: 0 },
            outcome: tombstone.outcome(),
            completed: tombstone.completed().as_millis(),
            expires: tombstone.expired().as_millis(),
            remembered_until: tombstone.remembered_until().as_millis(),
            body: None,
        }
    }

    pub fn is_left_as(&self, found: &Self) -> bool {
        let attempt = Info { started: found.attempt.started, ..self.attempt };
        *found == Self { body: None, attempt, ..self.clone() }
    }
}

impl State {
    /// The attempt of a claim that is out or was lost.
    pub fn attempt(&self) -> Option<&Attempt> {
        match self {
            Self::Out { attempt, .. }
            | Self::Detached { attempt, .. }
            | Self::Ending { attempt, .. }
            | Self::Interrupted { attempt, .. } => Some(attempt),
            Self::Vacant | Self::Done(_) => None,
        }
    }

    /// Whether this claim is the current one, and its lease lasts.
    pub fn is_good(&self, fence: u64, now: u64) -> bool {
        matches!(self, Self::Out { attempt, until, .. } if attempt.info.fence == Some(fence) && now < *until)
    }

    /// The attempt of this fence, if it was handed over and nobody has taken it up, and until when
    /// it stands.
    pub fn standing(&self, fence: u64, now: u64) -> Option<(&Attempt, u64)> {
        match self {
            Self::Detached { attempt, until } if attempt.info.fence == Some(fence) && now < *until => {
                Some((attempt, *until))
            }
            _ => None,
        }
    }

    /// What a claim that is given back unused leaves: the key as it was, but for what was noted.
    pub fn put_back(attempt: &Attempt) -> Self {
        let Some(Before { attempt: lost, told, from, to }) = attempt.before.clone() else {
            return Self::Vacant;
        };
        let lost = Attempt { notes: attempt.notes.clone(), ..*lost };
        Self::Interrupted { attempt: lost, told, from, to }
    }

    /// A claim that ended without an outcome, between `since` and `by`.
    pub fn lost(attempt: Attempt, told: Info, since: u64, by: u64) -> Self {
        let (from, to) = (attempt.forgotten_after(since), attempt.forgotten_after(by));
        Self::Interrupted { attempt, told, from, to }
    }

    /// What time has made of it, for somebody who looks: a lease that ran out leaves the key
    /// interrupted.
    pub fn at(self, now: u64) -> Self {
        match self {
            Self::Out { attempt, until, .. } | Self::Detached { attempt, until } if until <= now => {
                let info = attempt.info;
                Self::lost(attempt, info, until, now)
            }
            other => other,
        }
    }

    /// A result that has become durable in the call at work was seen before or after that.
    fn durable(&self) -> Option<Self> {
        match self {
            Self::Ending { reply, record, .. } if record.is_durable() => Some(Self::Done(reply.clone())),
            _ => None,
        }
    }

    /// What may be seen of it.
    pub fn seen(&self, now: u64) -> Vec<Seen> {
        match self.clone().at(now) {
            Self::Vacant => vec![Seen::Vacant],
            Self::Out { attempt, .. } | Self::Detached { attempt, .. } | Self::Ending { attempt, .. } => {
                let done = self.durable().map(|done| done.seen(now)).unwrap_or_default();
                [vec![Seen::InFlight(attempt.info)], done].concat()
            }
            Self::Interrupted { told, from, to, .. } => {
                let remembered = (now < to).then_some(Seen::Interrupted(told));
                remembered.into_iter().chain((now >= from).then_some(Seen::Vacant)).collect()
            }
            Self::Done(reply) if now < reply.expires => vec![Seen::Done(reply)],
            Self::Done(reply) if now < reply.remembered_until => vec![Seen::Expired(reply)],
            Self::Done(_) => vec![Seen::Vacant],
        }
    }

    pub fn may_be_seen_as(&self, found: &Seen, now: u64) -> bool {
        self.seen(now).iter().any(|seen| seen.is(found))
    }

    /// The same, knowing what was seen: the fence of an attempt that was cut off, and what became
    /// of an interruption.
    pub fn seen_as(mut self, found: &Seen, now: u64) -> Self {
        if let (Self::Interrupted { attempt, told, from, to }, Seen::Interrupted(info)) = (&mut self, found) {
            if attempt.info == *told {
                attempt.info = *info;
            }
            *told = *info;
            *from = (*from).max(now.saturating_add(1)).min(*to);
        }
        self
    }

    /// What an opening makes of it, if that is what the disk has.
    pub fn opened(self, since: u64, now: u64) -> Self {
        match self {
            Self::Out { attempt, token_until: Some(until), .. } | Self::Detached { attempt, until } => {
                if now < until {
                    return Self::Detached { attempt, until };
                }
                let info = attempt.info;
                Self::lost(attempt, info, until.min(since), now)
            }
            // The disk may know that its lease ran out, if somebody looked.
            Self::Out { attempt, until, token_until: None } => {
                let info = attempt.info;
                Self::lost(attempt, info, until.min(since), now)
            }
            // Since when a claim is dead the disk may not know.
            Self::Interrupted { attempt, told, from, to } if to != NEVER => {
                let to = to.max(attempt.forgotten_after(now));
                Self::Interrupted { attempt, told, from, to }
            }
            Self::Ending { reply, .. } => Self::Done(reply),
            other => other,
        }
    }

    /// When something about it changes by itself.
    pub fn deadlines(&self) -> Vec<u64> {
        match self {
            Self::Vacant | Self::Ending { .. } => Vec::new(),
            Self::Out { until, .. } | Self::Detached { until, .. } => vec![*until],
            Self::Interrupted { from, to, .. } => vec![*from, *to],
            Self::Done(reply) => vec![reply.expires, reply.remembered_until],
        }
    }
}

/// How many attempts are granted by themselves.
pub fn attempts_max(policy: &Policy) -> u32 {
    match policy.get_recovery() {
        Recovery::Refuse => 1,
        Recovery::Rerun => policy.get_max_attempts().unwrap_or(NEVER_REFUSED),
        other => panic!("{other:?}"),
    }
}

const NEVER_REFUSED: u32 = u32::MAX;

/// What a begin or a resolve was answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Fresh { info: Info, told: Option<Info>, note: Option<Vec<u8>> },
    InFlight,
    Done(Reply),
    Reused,
    Unresolved(Info),
    Expired(Reply),
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub request: Option<usize>,
    pub policy: &'a Policy,
    pub now: u64,
}

impl Ask<'_> {
    /// The attempt that comes after the one in `state`, if it may be granted.
    fn next(self, before: Option<Before>, request: usize) -> Attempt {
        let earlier = before.as_ref().map(|before| (&before.attempt, before.told));
        let number = earlier.map_or(1, |(attempt, _)| attempt.info.number + 1);
        Attempt {
            info: Info { fence: None, number, started: self.now },
            request,
            kept: Kept::by(self.policy),
            lease: self.policy.get_lease().map(ms),
            unresolved: self.policy.get_unresolved_ttl().map(ms),
            earlier: earlier.map(|(_, told)| told),
            notes: earlier.map_or_else(|| vec![None], |(attempt, _)| attempt.notes.clone()),
            before,
        }
    }

    /// All that may be answered, with the attempt where that is a claim.
    pub fn answers(self, state: &State) -> Vec<(Answer, Option<Attempt>)> {
        let refused = |answer| vec![(answer, None)];
        let granted = |attempt: Attempt| {
            let fresh = |note: &Option<Vec<u8>>| {
                let answer = Answer::Fresh { info: attempt.info, told: attempt.earlier, note: note.clone() };
                (answer, Some(Attempt { notes: vec![note.clone()], ..attempt.clone() }))
            };
            attempt.notes.iter().map(fresh).collect::<Vec<_>>()
        };
        let first = || self.request.map(|request| granted(self.next(None, request))).unwrap_or_default();
        let is_other = |request: usize| self.request.is_some_and(|asked| asked != request);
        match state {
            State::Vacant => first(),
            State::Out { attempt, .. } | State::Detached { attempt, .. } | State::Ending { attempt, .. } => {
                let out = match self.request {
                    None => Vec::new(),
                    Some(_) if is_other(attempt.request) => refused(Answer::Reused),
                    Some(_) => refused(Answer::InFlight),
                };
                let done = state.durable().map(|done| self.answers(&done)).unwrap_or_default();
                [out, done].concat()
            }
            State::Interrupted { attempt, told, from, to } => {
                let is_used_up = attempt.info.number >= attempts_max(self.policy);
                let mut answers = if self.now >= *to {
                    Vec::new()
                } else if is_other(attempt.request) {
                    refused(Answer::Reused)
                } else if self.request.is_some() && is_used_up {
                    refused(Answer::Unresolved(*told))
                } else {
                    let lost = Box::new(Attempt { before: None, ..attempt.clone() });
                    let before = Before { attempt: lost, told: *told, from: *from, to: *to };
                    granted(self.next(Some(before), attempt.request))
                };
                if self.now >= *from {
                    answers.extend(first());
                }
                answers
            }
            State::Done(reply) if self.now >= reply.remembered_until => first(),
            State::Done(_) if self.request.is_none() => Vec::new(),
            State::Done(reply) if is_other(reply.request) => refused(Answer::Reused),
            State::Done(reply) if self.now < reply.expires => refused(Answer::Done(reply.clone())),
            State::Done(reply) => refused(Answer::Expired(reply.clone())),
        }
    }
}

impl Answer {
    pub fn is(&self, found: &Self) -> bool {
        match (self, found) {
            (
                Self::Fresh { info, told, note },
                Self::Fresh { info: found, told: found_told, note: found_note },
            ) => {
                let same_told = match (told, found_told) {
                    (None, None) => true,
                    (Some(told), Some(found)) => told.is(found),
                    _ => false,
                };
                info.is(found) && same_told && note == found_note
            }
            (Self::Unresolved(told), Self::Unresolved(found)) => told.is(found),
            (Self::Expired(reply), Self::Expired(found)) => reply.is_left_as(found),
            (expected, found) => expected == found,
        }
    }
}
