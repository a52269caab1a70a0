//! What several of these modules need.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::common::request;
use idemkv::{Begin, Engine, Pending};

/// Counts how often it was woken.
#[derive(Default)]
pub struct Count(pub AtomicUsize);

impl Count {
    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

pub fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[track_caller]
pub fn ready<F: Future>(future: Pin<&mut F>) -> F::Output {
    match poll(future) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("should be ready"),
    }
}

#[track_caller]
pub fn pending(engine: &Engine) -> Pending {
    match engine.default_scope().begin("key", request()) {
        Ok(Begin::InFlight(pending)) => pending,
        other => panic!("should be in flight, is {other:?}"),
    }
}

/// Drops a future as it is woken, as an executor that shuts down may.
pub struct Gone(pub std::sync::Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);

impl Wake for Gone {
    fn wake(self: Arc<Self>) {
        let future = self.0.lock().unwrap().take();
        drop(future);
    }
}

/// Runs something where it is woken: in the middle of a commit, on the thread that leads it.
pub struct Callback(pub std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Callback {
    pub fn waker(call: impl FnOnce() + Send + 'static) -> Waker {
        Waker::from(Arc::new(Self(std::sync::Mutex::new(Some(Box::new(call))))))
    }
}

impl Wake for Callback {
    fn wake(self: Arc<Self>) {
        let call = self.0.lock().unwrap().take();
        if let Some(call) = call {
            call();
        }
    }
}
