//! The claim of a request, while its handler has it.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::HeaderName;
use tokio::sync::Notify;

use super::stored::encode_whole;
use crate::clock::Deadline;
use crate::engine::common::running::Marker;
use crate::sync::{AtomicBool, Mutex, Ordering};
use crate::tables::Tables;
use crate::{Claim, ClaimError, CompleteInError, Fence, Pending, Record, Status};

/// The place in a request's extensions where the handler behind the layer finds the claim.
///
/// With the feature `axum` a handler has a [`HeldClaim`] as an argument instead.
///
/// ```
/// use http::Request;
/// use idemkv::http::ClaimSlot;
///
/// fn charge(request: &Request<()>) {
///     if let Some(claim) = request.extensions().get::<ClaimSlot>().and_then(ClaimSlot::take) {
///         println!("attempt {}, step {}", claim.attempt(), claim.step_key("charge"));
///     }
/// }
/// # charge(&Request::new(()));
/// ```
#[derive(Clone)]
pub struct ClaimSlot(Arc<Slot>);

struct Slot {
    /// Whether the run has begun: until then the operation certainly did nothing.
    has_begun: AtomicBool,
    /// Whether the handler panicked while it had the claim. A layer may have caught the panic.
    panicked: AtomicBool,
    /// Held over no call of the engine, and over no drop of a claim.
    place: Mutex<Place>,
    /// That the claim came back.
    back: Notify,
    /// Headers that are not stored.
    never_store: Vec<HeaderName>,
}

/// Where the claim is.
enum Place {
    Here(Claim),
    /// With the handler.
    Lent,
    /// It ended: with a response, in a transaction.
    Stored(Record),
    /// It is gone, and nothing of it is known to be stored: its lease ran out, or a commit failed.
    Lost(ClaimError),
    /// It was dropped by a panic in a transaction.
    Interrupted,
    /// The run is over.
    Over,
}

/// What the layer finds when the handler has answered.
pub(super) enum Returned {
    Claim(Claim),
    Stored(Record),
    Lost(ClaimError),
    Interrupted,
}

impl ClaimSlot {
    /// Whether the run of its handler has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.0.has_begun.load(Ordering::Acquire)
    }

    /// Whether the handler panicked while it had the claim.
    pub(super) fn panicked(&self) -> bool {
        self.0.panicked.load(Ordering::Acquire)
    }

    /// The claim. `None` if it was taken already, or the request is over.
    #[must_use]
    pub fn take(&self) -> Option<HeldClaim> {
        let mut place = self.0.place.lock();
        match std::mem::replace(&mut *place, Place::Lent) {
            Place::Here(claim) => Some(HeldClaim { claim: Some(claim), slot: self.clone() }),
            other @ (Place::Lent | Place::Stored(_) | Place::Lost(_) | Place::Interrupted | Place::Over) => {
                *place = other;
                None
            }
        }
    }

    /// Puts the lent claim back, or what became of it.
    fn put(&self, back: Place) {
        let mut place = self.0.place.lock();
        let unused = match *place {
            Place::Lent => {
                *place = back;
                None
            }
            // Nobody asks for it any more. A claim is interrupted then.
            Place::Here(_) | Place::Stored(_) | Place::Lost(_) | Place::Interrupted | Place::Over => {
                Some(back)
            }
        };
        drop(place);
        drop(unused);
        self.0.back.notify_one();
    }

    /// Ends the slot unless the claim is lent, and takes what is in it.
    fn take_returned(&self) -> Option<Returned> {
        let mut place = self.0.place.lock();
        match std::mem::replace(&mut *place, Place::Over) {
            Place::Here(claim) => Some(Returned::Claim(claim)),
            Place::Stored(record) => Some(Returned::Stored(record)),
            Place::Lost(reason) => Some(Returned::Lost(reason)),
            Place::Interrupted | Place::Over => Some(Returned::Interrupted),
            Place::Lent => {
                *place = Place::Lent;
                None
            }
        }
    }

    /// Ends the slot, wherever the claim is.
    fn close(&self) -> Place {
        std::mem::replace(&mut *self.0.place.lock(), Place::Over)
    }

    fn is_lent(&self) -> bool {
        matches!(*self.0.place.lock(), Place::Lent)
    }
}

impl fmt::Debug for ClaimSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimSlot").field("is_lent", &self.is_lent()).finish_non_exhaustive()
    }
}

/// The layer's side of a slot. Dropped, in a panic too, it interrupts the key, also if the handler
/// has the claim then. Before the run has begun, its drop leaves the key as it was.
#[derive(Debug)]
pub(super) struct SlotOwner {
    pub(super) slot: ClaimSlot,
    /// The claim, wherever it is.
    lent: Pending,
    fence: Fence,
    has_lease: bool,
}

impl SlotOwner {
    pub(super) fn new(claim: Claim, never_store: Vec<HeaderName>) -> Self {
        let (lent, fence, has_lease) = (claim.pending(), claim.fence(), claim.lease_until().is_some());
        let (place, back) = (Mutex::new(Place::Here(claim)), Notify::new());
        let [has_begun, panicked] = [false; 2].map(AtomicBool::new);
        let slot = Slot { has_begun, panicked, place, back, never_store };
        Self { slot: ClaimSlot(Arc::new(slot)), lent, fence, has_lease }
    }

    /// For running the handler as the operation of its claim, which begins now.
    pub(super) fn begins(&self) -> Option<Marker> {
        self.slot.0.has_begun.store(true, Ordering::Release);
        match &*self.slot.0.place.lock() {
            Place::Here(claim) => Some(claim.marker()),
            Place::Lent | Place::Stored(_) | Place::Lost(_) | Place::Interrupted | Place::Over => None,
        }
    }

    /// Waits until the handler has given the claim back, or the claim is over: a task that hangs
    /// has it, or the response itself. A claim without a lease is waited for within a budget.
    pub(super) async fn returned(self, unleased: Duration) -> Returned {
        if let Some(returned) = self.slot.take_returned() {
            return returned;
        }
        let deadline = if self.has_lease { Deadline::NEVER } else { Deadline::after(unleased) };
        let mut lost = pin!(self.lent.lost(deadline));
        loop {
            let mut back = pin!(self.slot.0.back.notified());
            let over = poll_fn(|context| match back.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => lost.as_mut().poll(context).map(Some),
            });
            let over = over.await;
            if let Some(returned) = self.slot.take_returned() {
                return returned;
            }
            // Otherwise it came back, and was taken again.
            if let Some(lost) = over {
                return self.given_up(lost);
            }
        }
    }

    /// The record, if the claim's holder has stored the response, and not put the record back yet.
    fn stored(&self, reason: &ClaimError) -> Option<Record> {
        let ClaimError::Superseded(now) = reason else { return None };
        match &**now {
            Status::Done(record) if record.fence() == self.fence => Some(record.clone()),
            Status::Done(_)
            | Status::Vacant
            | Status::InFlight(_)
            | Status::Interrupted(_)
            | Status::Expired(_)
            | Status::Unreadable(_) => None,
        }
    }

    /// Of a claim that did not come back: why it is lost, or `None` if its time is up.
    fn given_up(&self, lost: Option<ClaimError>) -> Returned {
        match lost {
            None => Returned::Interrupted,
            Some(reason) => match self.stored(&reason) {
                Some(record) => Returned::Stored(record),
                None => Returned::Lost(reason),
            },
        }
    }
}

impl Drop for SlotOwner {
    fn drop(&mut self) {
        match self.slot.close() {
            // Queued before it is polled.
            Place::Here(claim) if !self.slot.has_begun() => drop(claim.insisting().put_back_async()),
            place @ (Place::Here(_)
            | Place::Lent
            | Place::Stored(_)
            | Place::Lost(_)
            | Place::Interrupted
            | Place::Over) => drop(place),
        }
    }
}

/// The claim of the request, in the hands of its handler: fence, attempt, what is known of an
/// earlier attempt, step keys.
///
/// It is a [`Claim`] that the handler can't end: its response does. When it is dropped, it goes
/// back to the layer. If the handler gives it to a task of its own, the response waits until that
/// task drops it: until the claim's lease ends, or without a lease for
/// [`wait_for_claim`](super::IdempotencyLayer::wait_for_claim).
///
/// Never put it into the response: into a body that streams, or into the response's extensions.
/// The layer sends a response once it is stored, and stores it with this claim. So the response
/// would wait for itself, and the key would be interrupted in the end. Save all progress before
/// the handler returns.
pub struct HeldClaim {
    /// `None` only within calls that consume it.
    claim: Option<Claim>,
    slot: ClaimSlot,
}

impl HeldClaim {
    /// [`Claim::save_progress`] for tasks: notes how far the operation has come, durably.
    ///
    /// # Errors
    ///
    /// As for [`Claim::save_progress`].
    pub async fn save_progress(&mut self, note: impl AsRef<[u8]>) -> Result<(), ClaimError> {
        self.claim_mut().save_progress_async(note).await
    }

    /// Stores the response that `work` returns, in one transaction with what `work` writes to the
    /// application's own tables in the same file: see [`Claim::complete_in`]. Answer with the
    /// response that this returns. The client gets the stored response, even if the handler
    /// answers with another one. Of the answer come the headers that are never stored, such as
    /// `Set-Cookie`.
    ///
    /// It blocks: call it where your runtime lets you block, such as tokio's `spawn_blocking`. It
    /// stores the whole response, whether or not [`Keep`](super::Keep) and the layer's limits
    /// would allow it.
    ///
    /// # Errors
    ///
    /// If `work` returns an error, it comes back with the claim, and nothing is written. Otherwise
    /// as for [`Claim::complete_in`].
    ///
    /// # Panics
    ///
    /// If `work` panics: nothing is written, and the key is interrupted.
    pub fn complete_in<B: Into<Bytes>, E>(
        mut self,
        work: impl FnOnce(&Tables<'_>) -> Result<Response<B>, E>,
    ) -> Result<Response<Bytes>, CompleteHeldError<E>> {
        let Some(claim) = self.claim.take() else { unreachable!("it is there until it is consumed") };
        let never_store = &self.slot.0.never_store;
        let mut answer = None;
        let done = claim.complete_in(|tables| {
            let response = work(tables)?.map(Into::into);
            let stored = encode_whole(&response, never_store);
            answer = Some(response);
            Ok(stored)
        });
        match done {
            Ok(record) => {
                self.slot.put(Place::Stored(record));
                Ok(answer.unwrap_or_else(|| unreachable!("what was stored was given")))
            }
            Err(CompleteInError::Work { error, claim }) => {
                self.claim = Some(*claim);
                Err(CompleteHeldError::Work { error, claim: Box::new(self) })
            }
            Err(CompleteInError::End(error)) => {
                let reason = error.reason().clone();
                self.claim = error.into_claim();
                let claim = if self.claim.is_some() {
                    Some(Box::new(self))
                } else {
                    self.slot.put(Place::Lost(reason.clone()));
                    None
                };
                Err(CompleteHeldError::NotStored { reason, claim })
            }
        }
    }

    fn claim_mut(&mut self) -> &mut Claim {
        self.claim.as_mut().unwrap_or_else(|| unreachable!("it is there until it is consumed"))
    }
}

impl Deref for HeldClaim {
    type Target = Claim;

    fn deref(&self) -> &Claim {
        self.claim.as_ref().unwrap_or_else(|| unreachable!("it is there until it is consumed"))
    }
}

impl Drop for HeldClaim {
    fn drop(&mut self) {
        if thread::panicking() {
            self.slot.0.panicked.store(true, Ordering::Release);
        }
        // After a call that consumed it, the slot knows what became of it, unless that call
        // panicked.
        self.slot.put(self.claim.take().map_or(Place::Interrupted, Place::Here));
    }
}

/// As its claim.
impl fmt::Debug for HeldClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeldClaim").field(&self.claim).finish()
    }
}

/// Why [`HeldClaim::complete_in`] stored nothing.
#[derive(Debug)]
#[non_exhaustive]
pub enum CompleteHeldError<E> {
    /// The closure gave an error. Nothing was written.
    Work {
        /// The error.
        error: E,
        /// The claim, which goes on.
        claim: Box<HeldClaim>,
    },
    /// The response could not be stored.
    NotStored {
        /// Why.
        reason: ClaimError,
        /// The claim, if nothing was written and it is still good. Without it the handler's answer
        /// is not used. If the lease ran out, the client gets what a retry would get now.
        /// Otherwise it is told that the store failed.
        claim: Option<Box<HeldClaim>>,
    },
}

impl<E: fmt::Display> fmt::Display for CompleteHeldError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work { error, .. } => write!(f, "nothing was written, because of this: {error}"),
            Self::NotStored { reason, .. } => reason.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> Error for CompleteHeldError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Work { .. } => None,
            Self::NotStored { reason, .. } => Some(reason),
        }
    }
}
