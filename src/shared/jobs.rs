//! Jobs for the store's thread that need no connection.

use std::pin::Pin;

use super::awaited;
use super::connection::first;
use crate::clock::Deadline;
use crate::task::reply;

pub(super) type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A sleep until the deadline, on any executor: what the store's thread does for it, and the
/// future. The job ends with the future, also where that is dropped: a wait with an hour's limit
/// that ends at once leaves nothing behind.
pub(super) fn sleep(deadline: Deadline) -> (Job, impl Future<Output = ()>) {
    let (reply, awake) = reply::pair();
    let (waits, awaited) = awaited::pair();
    let job: Job = Box::new(move || {
        Box::pin(async move {
            match deadline.instant() {
                Some(at) => first(tokio::time::sleep_until(at.into()), awaited.left()).await,
                None => awaited.left().await,
            }
            reply.send(());
        })
    });
    let sleeping = async move {
        let _waits = waits;
        awake.get().await;
    };
    (job, sleeping)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use tokio::task::{LocalSet, spawn_local};
    use tokio::time::timeout;

    use super::*;

    fn on_runtime(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn a_sleep_that_is_dropped_is_slept_by_nobody() {
        on_runtime(async {
            let (job, sleeping) = sleep(Deadline::after(Duration::from_secs(3_600)));
            let job = spawn_local(job());
            {
                let mut sleeping = pin!(sleeping);
                assert!(sleeping.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                tokio::task::yield_now().await;
                assert!(!job.is_finished());
            }
            timeout(Duration::from_secs(10), job).await.unwrap().unwrap();
        });
    }

    #[test]
    fn a_sleep_ends_at_its_deadline() {
        on_runtime(async {
            let (job, sleeping) = sleep(Deadline::after(Duration::from_millis(1)));
            let job = spawn_local(job());
            timeout(Duration::from_secs(10), sleeping).await.unwrap();
            job.await.unwrap();
        });
    }
}
