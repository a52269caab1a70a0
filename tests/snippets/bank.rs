//! What the snippets of the README and the guide call: a bank that counts its effects, and an executor.

use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::task::Poll;

static EFFECTS: LazyLock<Mutex<HashMap<String, u32>>> = LazyLock::new(Mutex::default);

/// How often a request had its effect.
pub fn effects(request: &str) -> u32 {
    EFFECTS.lock().unwrap().get(request).copied().unwrap_or(0)
}

/// A number below `limit`.
pub fn random(limit: u64) -> u64 {
    RandomState::new().hash_one(0) % limit
}

/// Whether the bank panics once it has acted on this request.
pub fn is_fatal(request: &str) -> bool {
    request.ends_with("13")
}

async fn yields(times: u64) {
    for _ in 0..times {
        let asked = AtomicBool::new(false);
        let once = poll_fn(|context| {
            context.waker().wake_by_ref();
            if asked.swap(true, Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
        });
        once.await;
    }
}

/// Charges, and takes some time before and after.
pub async fn charge(request: String) -> String {
    yields(random(4)).await;
    *EFFECTS.lock().unwrap().entry(request.clone()).or_default() += 1;
    yields(random(4)).await;
    if is_fatal(&request) {
        resume_unwind(Box::new("a planned panic"));
    }
    format!("charged {request}")
}

pub async fn bank(_step: String, request: String) -> Result<String, String> {
    Ok(charge(request).await)
}

/// What the bank knows of the charges that it is asked for, in this order: a receipt, nothing that it could say, and that
/// there is none.
pub async fn find_charge(_step: String) -> Result<Option<String>, String> {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    match ASKED.fetch_add(1, Ordering::Relaxed) {
        0 => Ok(Some("charged \"late\"".to_owned())),
        1 => Err("no answer".to_owned()),
        _ => Ok(None),
    }
}

/// As much of tokio as the snippets use.
pub mod tokio {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll, Waker};

    #[derive(Debug)]
    pub struct JoinError;

    impl std::fmt::Display for JoinError {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the task panicked")
        }
    }

    impl std::error::Error for JoinError {}

    struct Shared<T> {
        output: Option<Result<T, JoinError>>,
        waker: Option<Waker>,
    }

    pub struct JoinHandle<T>(Arc<Mutex<Shared<T>>>);

    impl<T> Future for JoinHandle<T> {
        type Output = Result<T, JoinError>;

        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
            let mut shared = self.0.lock().unwrap();
            shared.waker = Some(context.waker().clone());
            shared.output.take().map_or(Poll::Pending, Poll::Ready)
        }
    }

    pub fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        spawn_blocking(|| futures_executor::block_on(task))
    }

    pub fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let ours = Arc::new(Mutex::new(Shared { output: None, waker: None }));
        let theirs = Arc::clone(&ours);
        std::thread::spawn(move || {
            let output = catch_unwind(AssertUnwindSafe(work));
            let mut shared = theirs.lock().unwrap();
            shared.output = Some(output.map_err(|_panic| JoinError));
            let waker = shared.waker.take();
            drop(shared);
            if let Some(waker) = waker {
                waker.wake();
            }
        });
        JoinHandle(ours)
    }
}
