//! Many begins in one call: they are sent before the first answer is awaited, so that they share
//! statements.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use super::core::SharedHandle;
use super::refusal::{carry, check_caller};
use crate::engine::common::namespace::ScopeInner;
use crate::engine::common::request::{BeginRequest, CALLS_MAX};
use crate::engine::handles::claim::Begin;
use crate::error::BeginError;
use crate::sync::Arc;
use crate::task::caller::Caller;

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
        carry(caller, self.begin_all(scope, requests)).await
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

    /// The first request of each key is sent. The others get its answer, or ask for themselves if
    /// they have another fingerprint.
    async fn begin_all(self: &Arc<Self>, scope: &ScopeInner, requests: &[BeginRequest<'_>]) -> Vec<Answer> {
        let mut of_key = HashMap::new();
        let mut first: Vec<usize> = Vec::new();
        for (at, request) in requests.iter().enumerate() {
            of_key.entry(request.key).or_insert_with(|| {
                first.push(at);
                at
            });
        }
        let firsts = first.iter().filter_map(|at| requests.get(*at));
        let begins = firsts
            .map(|request| Box::pin(self.begin(Caller::Task, scope, request.key, *request.fingerprint)))
            .collect();
        let mut answers: Vec<Option<Answer>> = Vec::new();
        answers.resize_with(requests.len(), || None);
        for (at, answer) in first.into_iter().zip(all(begins).await) {
            if let Some(place) = answers.get_mut(at) {
                *place = Some(answer);
            }
        }
        // Those with another fingerprint than the first of their key, and whom they asked for.
        let mut of_others = HashMap::new();
        let mut all = Vec::with_capacity(requests.len());
        for (at, request) in requests.iter().enumerate() {
            if let Some(answer) = answers.get_mut(at).and_then(Option::take) {
                all.push(answer);
                continue;
            }
            let first = of_key.get(request.key).copied().unwrap_or(at);
            let same = requests.get(first).is_some_and(|of| of.fingerprint == request.fingerprint);
            let twin = if same {
                Some(first)
            } else {
                of_others.get(&(request.key, request.fingerprint.as_bytes())).copied()
            };
            let answer = if let Some((twin, answer)) = twin.and_then(|twin| Some((twin, all.get(twin)?))) {
                self.as_twin(scope, request.key, twin, answer)
            } else {
                of_others.insert((request.key, request.fingerprint.as_bytes()), at);
                self.begin(Caller::Task, scope, request.key, *request.fingerprint).await
            };
            all.push(answer);
        }
        all
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

/// The outputs of all futures, which are all started before the first is awaited.
async fn all<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut ready = Vec::new();
    poll_fn(|context| {
        ready = futures
            .iter_mut()
            .map(|future| match Pin::new(future).poll(context) {
                Poll::Ready(output) => Some(output),
                Poll::Pending => None,
            })
            .collect();
        Poll::Ready(())
    })
    .await;
    let mut outputs = Vec::with_capacity(futures.len());
    for (future, ready) in futures.into_iter().zip(ready) {
        outputs.push(match ready {
            Some(output) => output,
            None => future.await,
        });
    }
    outputs
}
