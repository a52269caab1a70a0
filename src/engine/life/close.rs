//! Closing the file: the first caller closes it, all others wait.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use crate::clock::Stopwatch;
use crate::engine::core::Core;
use crate::engine::file::handle::FileHandle;
use crate::error::{Failure, IoFailure};
use crate::foreign::discard;
use crate::sync::{Arc, is_ours, spawn};
use crate::task::caller::Caller;
use crate::task::reply;

impl Core {
    /// Stops the threads and closes the file.
    fn close(core: &Arc<Self>) -> Result<usize, Failure> {
        core.health.check_process()?;
        if core.closing.is_first() { Self::close_first(core) } else { core.closing.outcome() }
    }

    fn close_first(core: &Arc<Self>) -> Result<usize, Failure> {
        let watch = Stopwatch::start();
        let unwinding = SettleOnUnwind(core);
        let closed = core.shut_down();
        if let Err(Failure::Forked) = closed {
            // A waker forked. All is the parent's, also what the last drop of the core would drop.
            std::mem::forget((unwinding, Arc::clone(core)));
            return closed;
        }
        let threads = core.threads.dismiss();
        core.call_all();
        let panics = threads.into_iter().filter_map(|thread| thread.join().err()).map(discard).count();
        let outcome = if panics > 0 { Err(Failure::Panicked) } else { closed };
        std::mem::forget(unwinding);
        core.closing.settle(outcome.clone());
        // Also a waker of a task that waited for this may have forked.
        if let Err(forked) = core.health.check_process() {
            std::mem::forget(Arc::clone(core));
            return Err(forked);
        }
        // Other callers of close have their result by now, also an observer.
        core.tell_of_close(&outcome, &watch);
        outcome
    }

    /// Closes the file on a thread that may wait for all others, unless another one closes it.
    /// However many callers close, one thread is started.
    fn close_elsewhere(core: &Arc<Self>) -> Result<(), IoFailure> {
        let theirs = Arc::clone(core);
        let started = core.closing.start(|| spawn("idemkv-close", move || drop(Self::close_first(&theirs))));
        let refused = |error| IoFailure::new(core.store.path(), "starting a thread that closes", error);
        started.map(drop).map_err(refused)
    }

    /// Whether a closing thread would wait for itself: for its own transaction, or for its own
    /// end.
    fn must_close_elsewhere(&self) -> bool {
        self.is_inside() || is_ours() || self.check_blocking(Caller::Thread).is_err()
    }

    /// Whether a close waits for what the calling thread runs, a transaction or a reader of
    /// tables. A task that is woken inside it, by a commit that its thread leads, does not block
    /// that thread.
    fn is_waited_for_by_close(&self) -> bool {
        self.is_inside() && self.check_blocking(Caller::Thread).is_ok()
    }
}

/// Turns a panic into a failed close. Defused if there was none.
struct SettleOnUnwind<'a>(&'a Core);

impl Drop for SettleOnUnwind<'_> {
    fn drop(&mut self) {
        self.0.closing.settle(Err(Failure::Panicked));
    }
}

impl FileHandle {
    /// Stops the threads and closes the file.
    pub(in crate::engine) fn close(&self) -> Result<usize, Failure> {
        self.core.health.check_process()?;
        if self.core.must_close_elsewhere() {
            let left = self.core.publisher.claims_held();
            // Without a thread the engine stays open: callers that wait are told nothing before it
            // closes.
            return Core::close_elsewhere(&self.core).map(|()| left).map_err(Failure::Io);
        }
        Core::close(&self.core)
    }

    /// [`close`](Self::close) for tasks.
    pub(in crate::engine) async fn close_async(&self) -> Result<usize, Failure> {
        self.core.health.check_process()?;
        // A stepped engine does all work where it is called.
        if self.core.must_close_elsewhere() || !self.core.options.workers {
            return self.close();
        }
        let (replier, awaited) = reply::pair();
        let theirs = Arc::clone(&self.core);
        let close = move || replier.send(Core::close_first(&theirs));
        let first = match self.core.closing.start(|| spawn("idemkv-close", close)) {
            Ok(is_first) => is_first.then_some(awaited),
            // Blocking here is better than a file that is not closed.
            Err(_) => return Core::close(&self.core),
        };
        let mut closed = pin!(async {
            match first {
                Some(awaited) => awaited.get().await.unwrap_or(Err(Failure::Panicked)),
                None => self.core.closing.told(|| self.core.health.is_forked()).await,
            }
        });
        // Asked at each poll: the work of a transaction, for which the close waits, may poll a
        // close that began before it.
        poll_fn(|context| match closed.as_mut().poll(context) {
            Poll::Pending if self.core.is_waited_for_by_close() => {
                Poll::Ready(Ok(self.core.publisher.claims_held()))
            }
            polled @ (Poll::Ready(_) | Poll::Pending) => polled,
        })
        .await
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        if self.core.health.is_forked_for_sure() {
            // The file, its lock and the database are the parent's: nothing of them is ever closed
            // here, not even by a drop.
            std::mem::forget(Arc::clone(&self.core));
            return;
        }
        // Errors have nobody to go to here; `Engine::close` reports them. Nothing acknowledged is
        // lost.
        if self.core.must_close_elsewhere() {
            // The last handle went with a task that one of the engine's threads woke or dropped,
            // or within a transaction.
            if Core::close_elsewhere(&self.core).is_err() {
                // No thread is left that could wait. The file stays as a kill would leave it:
                // nothing acknowledged is lost by that.
                self.core.health.shut();
                self.core.call_all();
            }
        } else if self.core.closing.is_first() {
            drop(Core::close_first(&self.core));
        }
    }
}
