//! Runs that go on without their clients: how they are spawned, counted and waited for.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::Claim;

/// The run of a handler, on its way to an executor; see
/// [`IdempotencyLayer::spawner`](super::IdempotencyLayer::spawner).
pub type DetachedRun = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What carries out runs.
#[derive(Clone, Default)]
pub(super) enum Spawner {
    /// The tokio runtime in which the request is served.
    #[default]
    Tokio,
    Given(Arc<dyn Fn(DetachedRun) + Send + Sync>),
}

/// A spawner that can carry out a run now.
pub(super) enum ReadySpawner<'s> {
    Tokio(Handle),
    Given(&'s (dyn Fn(DetachedRun) + Send + Sync)),
}

impl Spawner {
    /// `None` outside of a runtime.
    pub(super) fn ready(&self) -> Option<ReadySpawner<'_>> {
        match self {
            Self::Tokio => Handle::try_current().ok().map(ReadySpawner::Tokio),
            Self::Given(spawn) => Some(ReadySpawner::Given(&**spawn)),
        }
    }
}

impl ReadySpawner<'_> {
    pub(super) fn spawn(self, run: impl Future<Output = ()> + Send + 'static, within: RunSpan) {
        let run = within.around(run);
        match self {
            Self::Tokio(runtime) => drop(runtime.spawn(run)),
            Self::Given(spawn) => spawn(Box::pin(run)),
        }
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tokio => "Tokio",
            Self::Given(_) => "Given",
        })
    }
}

/// The span of a run, within that of its request; nothing without the feature `tracing`.
pub(super) struct RunSpan {
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

impl RunSpan {
    #[cfg(not(feature = "tracing"))]
    pub(super) fn of(_claim: &Claim) -> Self {
        Self {}
    }

    /// It names the key by its short hash.
    #[cfg(feature = "tracing")]
    pub(super) fn of(claim: &Claim) -> Self {
        let span = tracing::info_span!(
            target: "idemkv",
            "run",
            scope = crate::monitoring::scope_label(claim.scope()),
            key.hash = %claim.key_hash(),
            attempt = claim.attempt(),
            fence = claim.fence().get()
        );
        Self { span }
    }

    #[cfg(not(feature = "tracing"))]
    fn around<F: Future>(self, run: F) -> F {
        let Self {} = self;
        run
    }

    #[cfg(feature = "tracing")]
    fn around<F: Future>(self, run: F) -> impl Future<Output = F::Output> {
        let run = tracing::Instrument::instrument(run, self.span);
        // A filter may leave out the run's own span.
        tracing::Instrument::in_current_span(run)
    }
}

/// The runs of a layer and its clones.
#[derive(Clone, Debug)]
pub(super) struct Runs(Arc<watch::Sender<usize>>);

/// A run that is under way, for as long as it lives.
#[derive(Debug)]
pub(super) struct RunMark(Runs);

impl Default for Runs {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Runs {
    pub(super) fn enter(&self) -> RunMark {
        self.0.send_modify(|running| *running += 1);
        RunMark(self.clone())
    }

    pub(super) fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until none is left.
    pub(super) async fn drained(&self) {
        // It can't fail: the sender is held.
        self.0.subscribe().wait_for(|running| *running == 0).await.ok();
    }
}

impl Drop for RunMark {
    fn drop(&mut self) {
        self.0.0.send_modify(|running| *running -= 1);
    }
}
