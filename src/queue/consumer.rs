//! `Consumer`: handles the messages of a queue, each once.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{StreamExt, stream};

use super::delivery::Delivery;
use super::groups::grouped;
use super::run::{Handling, Runner};
use super::settled::Settled;
use crate::error::OptionError;
use crate::task::reply;
use crate::{Claim, Scope};

/// Messages of a batch that are under way at once, unless told otherwise.
const CONCURRENCY: usize = 64;

/// Handles the messages of a queue, each once; see the [module](super).
///
/// One scope for each kind of message. Consumers in one process share the engine. A clone shares
/// nothing else with its original. Consumers in other processes need other files, or one shared
/// store. With other files, duplicates are found only if the broker sends all deliveries of a
/// message to the same process, as it does with partitions.
#[derive(Clone, Debug)]
#[must_use = "it does nothing before `handle`"]
pub struct Consumer {
    scope: Scope,
    concurrency: usize,
    deliveries_max: Option<u32>,
}

/// A batch on its way to an executor: the argument of `spawn` in [`Consumer::handle`].
pub type DetachedBatch = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The executor dropped the task that handled a batch, as it does when it shuts down. No message
/// of the batch was settled. The broker delivers them again; those whose handlers were running are
/// interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLost;

impl Consumer {
    /// A consumer of messages whose keys are in this scope. It handles 64 messages of a batch at
    /// once, and makes none a dead letter because of its count.
    pub fn new(scope: &Scope) -> Self {
        Self { scope: scope.clone(), concurrency: CONCURRENCY, deliveries_max: None }
    }

    /// How many messages of a batch are under way at once, from the begin to the stored result. 0
    /// counts as 1. Those that begin or end at the same time share a commit, so more at once cost
    /// fewer syncs each.
    pub fn concurrency(mut self, messages: usize) -> Self {
        self.concurrency = messages.max(1);
        self
    }

    /// After how many deliveries a message that can't be done becomes a dead letter. If its
    /// handler says at this delivery that it did nothing, the message is a dead letter at once. If
    /// the attempt before was interrupted, it is one at a later delivery, without a run of the
    /// handler. The limit goes by the broker's count, which includes deliveries during an outage
    /// or behind a group. Needs [`Delivery::count`]. Default: never.
    pub fn deliveries_max(mut self, deliveries: u32) -> Self {
        self.deliveries_max = Some(deliveries);
        self
    }

    /// Checks that the lease of the scope's policy, if it has one, ends before the broker delivers
    /// a message again. Otherwise that delivery would still find the claim of a consumer that
    /// hangs, and come to nothing.
    ///
    /// The handler's time must be below the lease. If a handler takes longer,
    /// [renew](Claim::renew_async) its claim, and have the broker extend the visibility timeout as
    /// well.
    ///
    /// # Errors
    ///
    /// If the lease is not below the timeout.
    ///
    /// ```
    /// # use idemkv::{Engine, queue::Consumer};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// let shipments = engine.set_policy("shipments", engine.policy().lease(Duration::from_secs(20)))?;
    /// assert!(Consumer::new(&shipments).visibility_timeout(Duration::from_secs(30)).is_ok());
    /// let too_short = Consumer::new(&shipments).visibility_timeout(Duration::from_secs(20));
    /// assert_eq!(too_short.unwrap_err().name(), "visibility_timeout");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn visibility_timeout(self, timeout: Duration) -> Result<Self, OptionError> {
        match self.scope.policy().get_lease() {
            Some(lease) if lease >= timeout => {
                let allowed = format!("more than the lease of the scope, {lease:?}");
                Err(OptionError::new("visibility_timeout", timeout, &allowed))
            }
            Some(_) | None => Ok(self),
        }
    }

    /// Handles a batch, and returns its messages in their order, each with what to tell the
    /// broker.
    ///
    /// `describe` gives the key of a message, `spawn` hands the batch to an executor as one task,
    /// and `handler` is the operation. It is called once for a message whose operation has not
    /// run, with the claim, which has the number of the attempt, the fence, step keys and
    /// progress. Messages of one [group](Delivery::group) are handled one after the other, and so
    /// are those with one key that are in no group. Of messages with one key in several groups, one
    /// runs, and the others come again.
    ///
    /// A batch that is spawned goes on if this future is dropped: the results are stored, and the
    /// broker's next delivery gets them. Before you [close](crate::Engine::close) the engine, wait
    /// for the batches. A panic of `describe` or `spawn` continues to the caller, and nothing was
    /// begun.
    ///
    /// # Errors
    ///
    /// [`BatchLost`] if the executor drops the batch. What goes wrong with one message is in its
    /// [`Reason`](super::Reason).
    pub async fn handle<M, H>(
        &self,
        batch: Vec<M>,
        describe: impl Fn(&M) -> Delivery,
        spawn: impl FnOnce(DetachedBatch),
        handler: H,
    ) -> Result<Vec<Settled<M>>, BatchLost>
    where
        M: Send + Sync + 'static,
        H: for<'c> Fn(&'c mut Claim, &'c M) -> Handling<'c> + Send + Sync + 'static,
    {
        let groups = grouped(batch, describe);
        let runner = Runner::new(self.scope.clone(), self.deliveries_max, handler);
        let (concurrency, (replier, awaited)) = (self.concurrency, reply::pair());
        spawn(Box::pin(async move {
            let runs = groups.into_iter().map(|group| runner.handle_group(group));
            let mut settled: Vec<_> = stream::iter(runs).buffer_unordered(concurrency).concat().await;
            settled.sort_unstable_by_key(|(at, _)| *at);
            replier.send(settled.into_iter().map(|(_, settled)| settled).collect());
        }));
        awaited.get().await.ok_or(BatchLost)
    }
}

impl fmt::Display for BatchLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the executor dropped the task that handled the batch; settle none of its messages, so that the broker delivers them again",
        )
    }
}

impl Error for BatchLost {}
