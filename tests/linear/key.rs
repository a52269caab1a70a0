//! One key as its users see it, for the checker.

use idemkv::{Begin, BeginError, Claim, ClaimError, EndError, ForgetError, Record, ResolveError, Status};

use super::checker::Model;

/// A key whose claims have no leases.
pub struct Key;

/// A key whose claims have leases: they may be over at any time.
pub struct LeasedKey;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The highest fence that was granted.
    fence_max: u64,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Vacant,
    InFlight {
        fence: u64,
        attempt: u32,
        resolves: bool,
    },
    Interrupted {
        attempt: u32,
    },
    Done(Outcome),
    /// A record, or an interrupted claim, that is on its way out.
    Forgetting,
    /// A claim was granted whose caller no longer waits for it. It is given back.
    LetGo {
        attempt: u32,
    },
    /// A claim was granted whose lease is over before its caller is told, or may be. It comes to nothing, or to an interruption.
    Unsure {
        attempt: u32,
    },
}

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
    Complete {
        outcome: Outcome,
        accepted: bool,
    },
    Release {
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
    /// A begin that nobody waited for: whatever it had is given back.
    LetGo,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    Fresh(Grant),
    InFlight,
    Done(Outcome),
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
    /// A key that nobody has asked for.
    pub fn new() -> Self {
        Self { fence_max: 0, phase: Phase::Vacant }
    }

    fn at(&self, phase: Phase) -> Vec<Self> {
        vec![Self { fence_max: self.fence_max, phase }]
    }

    fn stay_if(&self, possible: bool) -> Vec<Self> {
        if possible { vec![self.clone()] } else { Vec::new() }
    }

    fn granted(&self, grant: Grant, resolves: bool) -> Vec<Self> {
        let attempt = self.next_attempt().filter(|attempt| !resolves || *attempt > 1);
        if attempt != Some(grant.attempt) || grant.fence <= self.fence_max {
            return Vec::new();
        }
        let Grant { fence, attempt } = grant;
        vec![Self { fence_max: fence, phase: Phase::InFlight { fence, attempt, resolves } }]
    }

    /// Attempt and whether it resolves, where this is the claim that is out.
    fn held(&self, fence: u64) -> Option<(u32, bool)> {
        match self.phase {
            Phase::InFlight { fence: current, attempt, resolves } if current == fence => {
                Some((attempt, resolves))
            }
            _ => None,
        }
    }

    fn begin(&self, begun: &Begun) -> Vec<Self> {
        match begun {
            Begun::Fresh(grant) => self.granted(*grant, false),
            Begun::InFlight => self.stay_if(self.is_busy()),
            Begun::Done(outcome) => self.stay_if(self.phase == Phase::Done(outcome.clone())),
        }
    }

    fn is_busy(&self) -> bool {
        matches!(
            self.phase,
            Phase::InFlight { .. } | Phase::Forgetting | Phase::LetGo { .. } | Phase::Unsure { .. }
        )
    }

    fn is_vacant(&self) -> bool {
        matches!(self.phase, Phase::Vacant | Phase::Unsure { attempt: 1 })
    }

    fn is_interrupted(&self) -> bool {
        matches!(self.phase, Phase::Interrupted { .. } | Phase::Unsure { .. })
    }

    /// The next attempt, where one would be granted.
    fn next_attempt(&self) -> Option<u32> {
        match self.phase {
            Phase::Vacant => Some(1),
            Phase::Interrupted { attempt } => Some(attempt + 1),
            Phase::InFlight { .. }
            | Phase::Done(_)
            | Phase::Forgetting
            | Phase::LetGo { .. }
            | Phase::Unsure { .. } => None,
        }
    }

    /// What a begin that nobody waited for may do.
    fn let_go(&self, step: u32) -> Vec<Self> {
        if let (1, Phase::LetGo { attempt }) = (step, &self.phase) {
            let mut states = self.at(before(*attempt));
            // A release says nothing of the attempts before it, but counts.
            if *attempt > 1 {
                states.extend(self.at(Phase::Interrupted { attempt: *attempt }));
            }
            return states;
        }
        let mut states = vec![self.clone()];
        let attempt = self.next_attempt().filter(|_| step == 0);
        states.extend(attempt.into_iter().flat_map(|attempt| self.at(Phase::LetGo { attempt })));
        states
    }

    /// What a begin, or a resolve, may do to a key with leases before it does what it tells.
    fn unsure(&self, step: u32) -> Vec<Self> {
        let mut states = vec![self.clone()];
        match (step, self.next_attempt()) {
            (0, Some(attempt)) => states.extend(self.at(Phase::Unsure { attempt })),
            (1, None) => {
                if let Phase::Unsure { attempt } = self.phase {
                    states.extend(self.at(Phase::Interrupted { attempt }));
                    states.extend(self.at(before(attempt)));
                }
            }
            _ => {}
        }
        states
    }

    fn end(&self, fence: u64, accepted: bool, becomes: impl FnOnce(u32, bool) -> Phase) -> Vec<Self> {
        match (self.held(fence), accepted) {
            (Some((attempt, resolves)), true) => self.at(becomes(attempt, resolves)),
            (None, false) => vec![self.clone()],
            (Some(_), false) | (None, true) => Vec::new(),
        }
    }

    fn forget(&self, forgot: Forgot, step: u32) -> Vec<Self> {
        match (forgot, step, &self.phase) {
            (Forgot::Something, 0, Phase::Done(_) | Phase::Interrupted { .. }) => self.at(Phase::Forgetting),
            (Forgot::Something, 1, Phase::Forgetting) => self.at(Phase::Vacant),
            (Forgot::Nothing, ..) => self.stay_if(self.is_vacant()),
            (Forgot::Refused, ..) => self.stay_if(self.is_busy()),
            _ => Vec::new(),
        }
    }

    fn get(&self, seen: &Seen) -> bool {
        match seen {
            Seen::Vacant => self.is_vacant(),
            Seen::InFlight => self.is_busy(),
            Seen::Interrupted => self.is_interrupted(),
            Seen::Done(outcome) => self.phase == Phase::Done(outcome.clone()),
        }
    }
}

/// What a key is before this attempt is granted.
fn before(attempt: u32) -> Phase {
    if attempt > 1 { Phase::Interrupted { attempt: attempt - 1 } } else { Phase::Vacant }
}

impl Model for Key {
    type State = State;
    type Call = Call;

    fn steps(call: &Call) -> u32 {
        // While a key is forgotten it is in flight.
        if matches!(call, Call::Forget(Forgot::Something) | Call::LetGo) { 2 } else { 1 }
    }

    fn step(state: &State, call: &Call, step: u32) -> Vec<State> {
        match call {
            Call::Begin(begun) => state.begin(begun),
            Call::Resolve(Some(grant)) => state.granted(*grant, true),
            Call::Resolve(None) => state.stay_if(!matches!(state.phase, Phase::Interrupted { .. })),
            Call::Complete { outcome, accepted } => {
                state.end(outcome.fence, *accepted, |_, _| Phase::Done(outcome.clone()))
            }
            Call::Release { fence, accepted } => state.end(*fence, *accepted, |attempt, resolves| {
                if attempt > 1 && !resolves { Phase::Interrupted { attempt } } else { Phase::Vacant }
            }),
            Call::Drop { fence } => {
                let is_held = state.held(*fence).is_some();
                state.end(*fence, is_held, |attempt, _| Phase::Interrupted { attempt })
            }
            Call::HandOver { fence } => match state.held(*fence) {
                Some((attempt, _)) => state.at(Phase::InFlight { fence: *fence, attempt, resolves: false }),
                None => vec![state.clone()],
            },
            Call::Get(seen) => state.stay_if(state.get(seen)),
            Call::Forget(forgot) => state.forget(*forgot, step),
            Call::LetGo => state.let_go(step),
        }
    }

    fn drift(_state: &State) -> Vec<State> {
        Vec::new()
    }
}

impl Model for LeasedKey {
    type State = State;
    type Call = Call;

    fn steps(call: &Call) -> u32 {
        if matches!(call, Call::Begin(_) | Call::Resolve(_)) { 3 } else { Key::steps(call) }
    }

    fn step(state: &State, call: &Call, step: u32) -> Vec<State> {
        match (call, step) {
            (Call::Begin(_) | Call::Resolve(_), 0 | 1) => state.unsure(step),
            _ => Key::step(state, call, step),
        }
    }

    /// A lease is over.
    fn drift(state: &State) -> Vec<State> {
        match state.phase {
            Phase::InFlight { attempt, .. } | Phase::Unsure { attempt } => {
                state.at(Phase::Interrupted { attempt })
            }
            Phase::Vacant
            | Phase::Interrupted { .. }
            | Phase::Done(_)
            | Phase::Forgetting
            | Phase::LetGo { .. } => Vec::new(),
        }
    }
}

impl Begun {
    pub fn of(begun: &Result<Begin, BeginError>) -> Self {
        match begun {
            Ok(Begin::Fresh(claim)) => Self::Fresh(Grant::of(claim)),
            Ok(Begin::InFlight(_)) => Self::InFlight,
            Ok(Begin::Done(record)) => Self::Done(Outcome::of(record)),
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
            Status::Expired(tombstone) => panic!("{tombstone:?}"),
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

/// The claim, where the key was interrupted.
pub fn resolved(resolved: Result<Claim, ResolveError>) -> Option<Claim> {
    match resolved {
        Ok(claim) => Some(claim),
        Err(ResolveError::NotInterrupted(_)) => None,
        Err(error) => panic!("resolve: {error}"),
    }
}
