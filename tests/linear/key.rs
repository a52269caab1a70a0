//! One key as its users see it, for the checker.

use idemkv::{Begin, BeginError, Claim, ClaimError, EndError, ForgetError, Record, ResolveError, Status};

use super::checker::{DONE, Model};

/// A key whose claims have no leases.
pub struct Key;

/// A key whose claims have leases: they may be over once the clock has moved on.
pub struct LeasedKey;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The highest fence that was granted.
    fence_max: u64,
    /// A begin of an interrupted key is refused.
    refuses: bool,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Vacant,
    InFlight {
        fence: u64,
        attempt: u32,
        resolves: bool,
        /// It was handed over as a token.
        is_handed_over: bool,
        /// The clock has moved on since it was granted.
        is_late: bool,
        earlier: Told,
    },
    Interrupted {
        attempt: u32,
        told: Told,
    },
    Done(Outcome),
    /// A record, or an interrupted claim, that is on its way out. A look still shows it.
    Forgetting(Box<Self>),
    /// A claim was granted whose caller no longer waits for it. It is given back.
    LetGo {
        attempt: u32,
        earlier: Told,
    },
    /// A claim was granted whose lease ends before the log has it. It comes to nothing, or to an
    /// interruption, and who asked for it goes on asking.
    Unsure {
        attempt: u32,
        /// The clock has moved on since it was granted.
        is_late: bool,
        earlier: Told,
    },
}

/// The attempt of an interruption that callers are shown, by its fence. `None` where no caller ever
/// had the claim, and before the first attempt.
type Told = Option<u64>;

/// What is stored of a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    pub fence: u64,
    pub failed: bool,
    pub body: Vec<u8>,
}

impl Outcome {
    pub fn of(record: &Record) -> Self {
        Self {
            fence: record.fence().get(),
            failed: record.outcome() == idemkv::Outcome::Failure,
            body: record.body().to_vec(),
        }
    }
}

/// A claim that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub fence: u64,
    pub attempt: u32,
}

impl Grant {
    pub fn of(claim: &Claim) -> Self {
        Self { fence: claim.fence().get(), attempt: claim.attempt() }
    }
}

/// A call, and what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Begin(Begun),
    /// `None` where the key was not interrupted.
    Resolve(Option<Grant>),
    /// Only the attempt with this fence.
    ResolveIf {
        only: u64,
        resolved: Resolved,
    },
    Complete {
        outcome: Outcome,
        accepted: bool,
    },
    Release {
        fence: u64,
        accepted: bool,
    },
    PutBack {
        fence: u64,
        accepted: bool,
    },
    Drop {
        fence: u64,
    },
    /// As a token, which does not carry that the claim resolves.
    HandOver {
        fence: u64,
    },
    Get(Seen),
    Forget(Forgot),
    /// A begin that nobody waited for: whatever it had is given back. Not of a key with leases,
    /// which may end before that.
    LetGo,
    /// The clock moves on.
    Advance,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    Granted(Grant),
    NotInterrupted,
    /// It is interrupted by another attempt than the one that was asked for.
    Another,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    Fresh(Grant),
    InFlight,
    Done(Outcome),
    Unresolved,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Vacant,
    InFlight,
    Interrupted,
    Done(Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgot {
    Something,
    Nothing,
    /// A claim is out.
    Refused,
}

impl State {
    /// A key that nobody has asked for, which may run again where it is interrupted.
    pub fn new() -> Self {
        Self { fence_max: 0, refuses: false, phase: Phase::Vacant }
    }

    /// One that may not.
    pub fn refusing() -> Self {
        Self { refuses: true, ..Self::new() }
    }

    fn at(&self, phase: Phase) -> Vec<Self> {
        vec![Self { phase, ..self.clone() }]
    }

    fn stay_if(&self, possible: bool) -> Vec<Self> {
        if possible { vec![self.clone()] } else { Vec::new() }
    }

    fn granted(&self, grant: Grant, resolves: bool) -> Vec<Self> {
        let Some((attempt, earlier)) = self.next_attempt(resolves) else { return Vec::new() };
        if attempt != grant.attempt || grant.fence <= self.fence_max {
            return Vec::new();
        }
        let fence = grant.fence;
        let phase =
            Phase::InFlight { fence, attempt, resolves, is_handed_over: false, is_late: false, earlier };
        vec![Self { fence_max: fence, phase, ..self.clone() }]
    }

    /// A resolution of one attempt alone.
    fn resolve_if(&self, only: u64, resolved: Resolved) -> Vec<Self> {
        let is_told = |fits: fn(u64, u64) -> bool| match self.phase {
            Phase::Interrupted { told, .. } => told.is_none_or(|told| fits(told, only)),
            // Of a claim that no caller had.
            Phase::Unsure { is_late, .. } => is_late,
            _ => false,
        };
        match resolved {
            Resolved::Granted(grant) if is_told(|told, only| told == only) => self.granted(grant, true),
            Resolved::Granted(_) => Vec::new(),
            Resolved::NotInterrupted => self.not_interrupted(),
            Resolved::Another => self.stay_if(is_told(|told, only| told != only)),
        }
    }

    /// While a key is being forgotten, a resolver waits.
    fn not_interrupted(&self) -> Vec<Self> {
        self.stay_if(!matches!(self.phase, Phase::Interrupted { .. } | Phase::Forgetting(_)))
    }

    /// This claim, where it is out.
    fn held(&self, fence: u64) -> Option<Out> {
        match self.phase {
            Phase::InFlight { fence: current, attempt, resolves, is_handed_over, earlier, .. }
                if current == fence =>
            {
                Some(Out { attempt, resolves, is_handed_over, earlier })
            }
            _ => None,
        }
    }

    fn begin(&self, begun: &Begun) -> Vec<Self> {
        match begun {
            Begun::Fresh(grant) => self.granted(*grant, false),
            Begun::InFlight => self.stay_if(self.is_busy()),
            Begun::Done(outcome) => self.stay_if(self.phase == Phase::Done(outcome.clone())),
            Begun::Unresolved => self.stay_if(self.refuses && self.is_interrupted()),
        }
    }

    fn is_busy(&self) -> bool {
        matches!(
            self.phase,
            Phase::InFlight { .. } | Phase::Forgetting(_) | Phase::LetGo { .. } | Phase::Unsure { .. }
        )
    }

    fn is_vacant(&self) -> bool {
        self.phase == Phase::Vacant
    }

    fn is_interrupted(&self) -> bool {
        matches!(self.phase, Phase::Interrupted { .. } | Phase::Unsure { is_late: true, .. })
    }

    /// The next attempt, where a begin, or a resolve, would be granted one, and the one before.
    fn next_attempt(&self, resolves: bool) -> Option<(u32, Told)> {
        match self.phase {
            Phase::Vacant => (!resolves).then_some((1, None)),
            Phase::Interrupted { attempt, told } => {
                (resolves || !self.refuses).then_some((attempt + 1, told))
            }
            Phase::InFlight { .. }
            | Phase::Done(_)
            | Phase::Forgetting(_)
            | Phase::LetGo { .. }
            | Phase::Unsure { .. } => None,
        }
    }

    /// What a begin that nobody waited for may do.
    fn let_go(&self, step: u32) -> Vec<(u32, Self)> {
        match (step, &self.phase) {
            (0, _) => {
                let attempt = self.next_attempt(false);
                let let_go = |(attempt, earlier)| self.at(Phase::LetGo { attempt, earlier });
                let granted = attempt.into_iter().flat_map(let_go);
                done(vec![self.clone()]).into_iter().chain(granted.map(|state| (1, state))).collect()
            }
            (_, Phase::LetGo { attempt, earlier }) => {
                let mut states = self.at(before(*attempt, *earlier));
                // A release says nothing of the attempts before it, but counts.
                if *attempt > 1 {
                    states.extend(self.at(Phase::Interrupted { attempt: *attempt, told: *earlier }));
                }
                done(states)
            }
            _ => Vec::new(),
        }
    }

    /// What a begin, or a resolve, may do to a key with leases before it does what it tells: any
    /// number of claims may come to nothing, one each time that the clock moves on.
    ///
    /// Of two such claims at once either caller may end the other's, which the engine does not;
    /// whichever ends it, the key is told the same.
    fn unsure(&self, step: u32, resolves: bool) -> Vec<(u32, Self)> {
        let next = self.next_attempt(resolves);
        let states = match (step, &self.phase, next) {
            (0, _, Some((attempt, earlier))) => self.at(Phase::Unsure { attempt, is_late: false, earlier }),
            (1, Phase::Unsure { attempt, is_late: true, earlier }, _) => self.at(before(*attempt, *earlier)),
            (1, Phase::Unsure { is_late: false, .. }, _) => Vec::new(),
            // Somebody found it interrupted, and may have gone on from there.
            (1, ..) => vec![self.clone()],
            _ => Vec::new(),
        };
        states.into_iter().map(|state| (1 - step, state)).collect()
    }

    /// The clock moves on.
    fn advance(&self) -> Vec<Self> {
        let mut state = self.clone();
        if let Phase::InFlight { is_late, .. } | Phase::Unsure { is_late, .. } = &mut state.phase {
            *is_late = true;
        }
        vec![state]
    }

    fn end(&self, fence: u64, accepted: bool, becomes: impl FnOnce(Out) -> Phase) -> Vec<Self> {
        match (self.held(fence), accepted) {
            (Some(out), true) => self.at(becomes(out)),
            (None, false) => vec![self.clone()],
            (Some(_), false) | (None, true) => Vec::new(),
        }
    }

    fn forget(&self, forgot: Forgot, step: u32) -> Vec<(u32, Self)> {
        match (forgot, step, &self.phase) {
            // While a key is forgotten, begins wait for it.
            (Forgot::Something, 0, was @ (Phase::Done(_) | Phase::Interrupted { .. })) => self
                .at(Phase::Forgetting(Box::new(was.clone())))
                .into_iter()
                .map(|state| (1, state))
                .collect(),
            (Forgot::Something, 1, Phase::Forgetting(_)) => done(self.at(Phase::Vacant)),
            (Forgot::Nothing, ..) => done(self.stay_if(self.is_vacant())),
            // One that is under way is waited for.
            (Forgot::Refused, _, Phase::Forgetting(_)) => Vec::new(),
            (Forgot::Refused, ..) => done(self.stay_if(self.is_busy())),
            _ => Vec::new(),
        }
    }

    fn handed_over(&self, fence: u64) -> Vec<Self> {
        let mut state = self.clone();
        if let Phase::InFlight { fence: current, resolves, is_handed_over, is_late, .. } = &mut state.phase
            && *current == fence
        {
            // Its lease starts anew.
            (*resolves, *is_handed_over, *is_late) = (false, true, false);
        }
        vec![state]
    }

    fn get(&self, seen: &Seen) -> bool {
        if let Phase::Forgetting(was) = &self.phase {
            return Self { phase: Phase::clone(was), ..self.clone() }.get(seen);
        }
        match seen {
            Seen::Vacant => self.is_vacant(),
            Seen::InFlight => self.is_busy(),
            Seen::Interrupted => self.is_interrupted(),
            Seen::Done(outcome) => self.phase == Phase::Done(outcome.clone()),
        }
    }
}

/// A claim that is out.
#[derive(Clone, Copy)]
struct Out {
    attempt: u32,
    resolves: bool,
    is_handed_over: bool,
    earlier: Told,
}

impl Out {
    fn released(self) -> Phase {
        let Self { attempt, resolves, earlier, .. } = self;
        if attempt > 1 && !resolves { Phase::Interrupted { attempt, told: earlier } } else { Phase::Vacant }
    }

    /// A token may have had other holders before.
    fn put_back(self) -> Phase {
        if self.is_handed_over { self.released() } else { before(self.attempt, self.earlier) }
    }
}

/// What a key is before this attempt is granted.
fn before(attempt: u32, told: Told) -> Phase {
    if attempt > 1 { Phase::Interrupted { attempt: attempt - 1, told } } else { Phase::Vacant }
}

/// The states that a call may lead to with its last step.
fn done(states: Vec<State>) -> Vec<(u32, State)> {
    states.into_iter().map(|state| (DONE, state)).collect()
}

impl Model for Key {
    type State = State;
    type Call = Call;

    fn step(state: &State, call: &Call, step: u32) -> Vec<(u32, State)> {
        done(match call {
            Call::Begin(begun) => state.begin(begun),
            Call::Resolve(Some(grant)) => state.granted(*grant, true),
            Call::Resolve(None) => state.not_interrupted(),
            Call::ResolveIf { only, resolved } => state.resolve_if(*only, *resolved),
            Call::Complete { outcome, accepted } => {
                state.end(outcome.fence, *accepted, |_| Phase::Done(outcome.clone()))
            }
            Call::Release { fence, accepted } => state.end(*fence, *accepted, Out::released),
            Call::PutBack { fence, accepted } => state.end(*fence, *accepted, Out::put_back),
            Call::Drop { fence } => {
                let is_held = state.held(*fence).is_some();
                let told = Some(*fence);
                state.end(*fence, is_held, |out| Phase::Interrupted { attempt: out.attempt, told })
            }
            Call::HandOver { fence } => state.handed_over(*fence),
            Call::Get(seen) => state.stay_if(state.get(seen)),
            Call::Forget(forgot) => return state.forget(*forgot, step),
            Call::LetGo => return state.let_go(step),
            Call::Advance => state.advance(),
        })
    }

    fn drift(_state: &State) -> Vec<State> {
        Vec::new()
    }
}

impl Model for LeasedKey {
    type State = State;
    type Call = Call;

    fn step(state: &State, call: &Call, step: u32) -> Vec<(u32, State)> {
        let resolves = match call {
            Call::Begin(_) => false,
            Call::Resolve(_) | Call::ResolveIf { .. } => true,
            _ => return Key::step(state, call, step),
        };
        let told = if step == 0 { Key::step(state, call, step) } else { Vec::new() };
        told.into_iter().chain(state.unsure(step, resolves)).collect()
    }

    /// A lease is over.
    fn drift(state: &State) -> Vec<State> {
        match state.phase {
            Phase::InFlight { attempt, fence, is_late: true, .. } => {
                state.at(Phase::Interrupted { attempt, told: Some(fence) })
            }
            Phase::Unsure { attempt, is_late: true, .. } => {
                state.at(Phase::Interrupted { attempt, told: None })
            }
            Phase::Vacant
            | Phase::InFlight { .. }
            | Phase::Interrupted { .. }
            | Phase::Done(_)
            | Phase::Forgetting(_)
            | Phase::LetGo { .. }
            | Phase::Unsure { .. } => Vec::new(),
        }
    }
}

impl Begun {
    pub fn of(begun: &Result<Begin, BeginError>) -> Self {
        match begun {
            Ok(Begin::Fresh(claim)) => Self::Fresh(Grant::of(claim)),
            Ok(Begin::InFlight(_)) => Self::InFlight,
            Ok(Begin::Done(record)) => Self::Done(Outcome::of(record)),
            Err(BeginError::Unresolved(_)) => Self::Unresolved,
            Err(error) => panic!("begin: {error}"),
        }
    }
}

impl Seen {
    pub fn of(status: &Status) -> Self {
        match status {
            Status::Vacant => Self::Vacant,
            Status::InFlight(_) => Self::InFlight,
            Status::Interrupted(_) => Self::Interrupted,
            Status::Done(record) => Self::Done(Outcome::of(record)),
            other => panic!("{other:?}"),
        }
    }
}

impl Forgot {
    pub fn of(forgot: &Result<bool, ForgetError>) -> Self {
        match forgot {
            Ok(true) => Self::Something,
            Ok(false) => Self::Nothing,
            Err(ForgetError::InFlight) => Self::Refused,
            Err(error) => panic!("forget: {error}"),
        }
    }
}

/// Whether the end of a claim was accepted; it is refused for one reason only.
pub fn accepted<T>(ended: &Result<T, EndError>) -> bool {
    match ended {
        Ok(_) => true,
        Err(error) => match error.reason() {
            ClaimError::Superseded(_) => false,
            reason => panic!("an end was refused: {reason}"),
        },
    }
}

impl Resolved {
    pub fn of(resolved: &Result<Claim, ResolveError>) -> Self {
        match resolved {
            Ok(claim) => Self::Granted(Grant::of(claim)),
            Err(ResolveError::NotInterrupted(_)) => Self::NotInterrupted,
            Err(ResolveError::AnotherAttempt(_)) => Self::Another,
            Err(error) => panic!("resolve: {error}"),
        }
    }
}

/// The claim, where the key was interrupted.
pub fn resolved(resolved: Result<Claim, ResolveError>) -> Option<Claim> {
    match resolved {
        Ok(claim) => Some(claim),
        Err(ResolveError::NotInterrupted(_)) => None,
        Err(error) => panic!("resolve: {error}"),
    }
}
