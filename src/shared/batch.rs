//! Many begins in one call: they are sent before the first answer is awaited, so that they share
//! statements. All claims are made together, when every answer is in.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::task::Poll;

use super::begin::begin;
use super::complete::UnderWay;
use super::core::SharedHandle;
use super::granting::{self, not_granted};
use super::refusal::{Refusal, carry, check_caller};
use super::undelivered::Answered;
use crate::clock::{Deadline, Stopwatch};
use crate::engine::common::namespace::ScopeInner;
use crate::engine::common::request::{BeginRequest, CALLS_MAX};
use crate::engine::handles::claim::Begin;
use crate::error::BeginError;
use crate::record::Record;
use crate::sync::Arc;
use crate::task::caller::Caller;
use crate::task::members::Members;

type Answer = Result<Begin, BeginError>;

impl SharedHandle {
    pub(crate) async fn begin_many(
        self: &Arc<Self>,
        caller: Caller,
        scope: &ScopeInner,
        requests: &[BeginRequest<'_>],
    ) -> Vec<Answer> {
        let (len, max) = (requests.len(), CALLS_MAX);
        if len > max {
            return self.refuse_all(scope, requests, &BeginError::BatchTooLong { len, max });
        }
        if let Err(refusal) = check_caller(caller) {
            return self.refuse_all(scope, requests, &refusal.into());
        }
        match carry(caller, self.begin_all(scope, requests)).await {
            Ok(answers) => answers,
            Err(refusal) => self.refuse_all(scope, requests, &refusal.into()),
        }
    }

    fn refuse_all(
        &self,
        scope: &ScopeInner,
        requests: &[BeginRequest<'_>],
        error: &BeginError,
    ) -> Vec<Answer> {
        let refuse = |request: &BeginRequest<'_>| {
            let refused = Err(error.clone());
            self.0.note_begin(scope, request.key, &refused, None);
            refused
        };
        requests.iter().map(refuse).collect()
    }

    /// The first request of each key is sent, and after that those with other fingerprints. The
    /// others get the answer of one before them.
    ///
    /// No claim is a caller's while another request is awaited. If the future is dropped before,
    /// all that was granted is withdrawn; and what is over when all are in is asked for again.
    async fn begin_all(
        self: &Arc<Self>,
        scope: &ScopeInner,
        requests: &[BeginRequest<'_>],
    ) -> Result<Vec<Answer>, Refusal> {
        let _under_way = UnderWay::start(self)?;
        let deadline = self.0.deadline();
        let (leaders, turns) = led(requests);
        let mut asked = Vec::new();
        for turn in turns {
            let begins = turn.into_iter().filter_map(|at| Some((at, requests.get(at)?)));
            asked.extend(
                side_by_side(begins.map(|(at, request)| self.begin_one(scope, request, at, deadline))).await,
            );
        }
        self.replace_over(scope, requests, &mut asked, deadline).await;
        // Nothing is awaited from here on.
        let mut answers: Vec<Option<Answer>> = Vec::new();
        answers.resize_with(requests.len(), || None);
        let mut untold = Vec::new();
        for Asked { at, watch, answer } in asked {
            let answer = match answer {
                Before::Told(record) => Ok(Begin::Done(record)),
                Before::Untold(answer) => {
                    untold.push((at, watch));
                    answer.and_then(|answer| Ok(answer.deliver(self)?)).map_err(not_granted)
                }
            };
            if let Some(place) = answers.get_mut(at) {
                *place = Some(answer);
            }
        }
        for (at, watch) in untold {
            if let (Some(request), Some(Some(answer))) = (requests.get(at), answers.get(at)) {
                self.0.note_begin(scope, request.key, answer, watch.as_ref());
            }
        }
        let mut all: Vec<Answer> = Vec::with_capacity(requests.len());
        for ((request, answer), leader) in requests.iter().zip(answers).zip(leaders) {
            let twin = || Some(self.as_twin(scope, request.key, leader, all.get(leader)?));
            // Each leader comes before those that it leads.
            let Some(answer) = answer.or_else(twin) else { unreachable!("a leader has an answer") };
            all.push(answer);
        }
        Ok(all)
    }

    async fn begin_one<'a>(
        self: &'a Arc<Self>,
        scope: &ScopeInner,
        request: &BeginRequest<'_>,
        at: usize,
        deadline: Deadline,
    ) -> Asked<'a> {
        if let Some(record) = self.0.replay(scope, request.key, request.fingerprint) {
            return Asked { at, watch: None, answer: Before::Told(record) };
        }
        let watch = self.0.options.hooks.watch();
        let answer = match granting::Asked::to_grant(scope, request.key) {
            Ok(asked) => Box::pin(begin(self, &asked, *request.fingerprint, deadline)).await,
            Err(error) => Err(error.into()),
        };
        Asked { at, watch, answer: Before::Untold(answer) }
    }

    /// Begins anew what was granted and is over by now. Once the call's time is up, it is refused.
    async fn replace_over<'a>(
        self: &'a Arc<Self>,
        scope: &ScopeInner,
        requests: &[BeginRequest<'_>],
        asked: &mut Vec<Asked<'a>>,
        deadline: Deadline,
    ) {
        loop {
            let (over, good): (Vec<_>, Vec<_>) = std::mem::take(asked).into_iter().partition(Asked::is_over);
            *asked = good;
            if over.is_empty() {
                return;
            }
            let again = over.into_iter().map(async |Asked { at, watch, answer }| {
                let Before::Untold(Ok(granted)) = answer else { unreachable!("a grant is over") };
                let answer = match requests.get(at) {
                    Some(request) if !deadline.has_passed() => {
                        granted.withdraw(deadline).await;
                        return Asked { watch, ..self.begin_one(scope, request, at, deadline).await };
                    }
                    // Its drop withdraws it.
                    _ => Err(Refusal::unavailable(self.0.failure()).into()),
                };
                Asked { at, watch, answer: Before::Untold(answer) }
            });
            let again = side_by_side(again).await;
            asked.extend(again);
        }
    }

    /// The answer to a request that asks for the same as another of its batch.
    fn as_twin(&self, scope: &ScopeInner, key: &[u8], first: usize, answer: &Answer) -> Answer {
        let answer = match answer {
            Ok(Begin::Fresh(claim)) => {
                self.0.note_in_flight(claim.of());
                Err(BeginError::DuplicateInBatch { first })
            }
            Ok(Begin::InFlight(pending)) => Ok(Begin::InFlight(pending.clone())),
            Ok(Begin::Done(record)) => Ok(Begin::Done(record.clone())),
            Err(error) => Err(error.clone()),
        };
        self.0.note_begin(scope, key, &answer, None);
        answer
    }
}

/// The answer to a request that was sent, before its caller has it.
struct Asked<'a> {
    at: usize,
    watch: Option<Stopwatch>,
    answer: Before<'a>,
}

enum Before<'a> {
    /// A replay from memory, which the observer was told of.
    Told(Record),
    Untold(Result<Answered<'a>, BeginError>),
}

impl Asked<'_> {
    fn is_over(&self) -> bool {
        matches!(&self.answer, Before::Untold(Ok(answer)) if answer.is_over())
    }
}

/// For each request the first with its key and fingerprint. Also those first ones in two turns: of
/// each key one, and the others.
fn led(requests: &[BeginRequest<'_>]) -> (Vec<usize>, [Vec<usize>; 2]) {
    let (mut of_keys, mut of_requests) = (HashSet::new(), HashMap::new());
    let mut turns = <[Vec<usize>; 2]>::default();
    let leaders = requests.iter().enumerate().map(|(at, request)| {
        let [firsts, others] = &mut turns;
        *of_requests.entry((request.key, request.fingerprint.as_bytes())).or_insert_with(|| {
            let turn = if of_keys.insert(request.key) { firsts } else { others };
            turn.push(at);
            at
        })
    });
    (leaders.collect(), turns)
}

/// The outputs of all futures, which are all started before the first answer is awaited.
pub(super) async fn side_by_side<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(|future| Some(Box::pin(future))).collect();
    let mut outputs = Vec::with_capacity(futures.len());
    let members = Members::new(futures.len());
    let mut left = futures.len();
    poll_fn(|context| {
        for member in members.woken(context) {
            let Some(place) = futures.get_mut(member) else { continue };
            let Some(future) = place else { continue };
            if let Poll::Ready(output) = future.as_mut().poll(&mut members.context(member)) {
                *place = None;
                outputs.push(output);
                left -= 1;
            }
        }
        if left == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs
}
