//! `LooseEnds`: ends of claims that no caller waits for, kept until the store has them.

use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::statements::end::EndAsk;
use crate::attempt::Attempt;
use crate::clock::Deadline;
use crate::observer::EndKind;
use crate::sync::{Arc, AtomicUsize, Mutex, Ordering};

/// The end of a claim that was dropped, or of a grant that may have happened.
pub(super) struct LooseEnd {
    pub(super) end: EndAsk,
    /// The grant may still happen until then, so finding nothing before is no answer.
    pub(super) until: Option<Deadline>,
    /// The claim that was dropped.
    pub(super) attempt: Option<Arc<Attempt>>,
    /// Its holder sent an end of which no answer came.
    pub(super) may_be_over: bool,
    /// What that was, if it was a release.
    pub(super) released: EndKind,
    /// Scope and key, if the grant inserts the key's row.
    pub(super) names: Option<Names>,
    /// It is sent alone: in the group in which it was sent before, one had to wait.
    pub(super) is_alone: bool,
    due: Deadline,
    pause: Duration,
}

impl LooseEnd {
    fn new(end: EndAsk, until: Option<Deadline>) -> Self {
        Self {
            end,
            until,
            attempt: None,
            may_be_over: false,
            released: EndKind::Released,
            names: None,
            is_alone: false,
            due: Deadline::after(Duration::ZERO),
            pause: PAUSE_MIN,
        }
    }
}

/// Scope and key.
pub(super) type Names = (Arc<[u8]>, Arc<[u8]>);

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct LooseEnds {
    /// Leaf lock. While it is long, nothing is granted.
    list: Mutex<Vec<LooseEnd>>,
    /// Wakes the thread that settles them.
    pub(super) called: Notify,
    /// How many are being settled.
    busy: AtomicUsize,
}

impl LooseEnds {
    /// The end of a claim that was dropped.
    pub(super) fn abandon(&self, end: EndAsk, attempt: Arc<Attempt>, may_be_over: bool, released: EndKind) {
        self.push(LooseEnd { attempt: Some(attempt), may_be_over, released, ..LooseEnd::new(end, None) });
    }

    /// A claim that may have been resumed is handed back.
    pub(super) fn hand_back(&self, end: EndAsk, until: Deadline) {
        self.push(LooseEnd::new(end, Some(until)));
    }

    /// The withdrawal of a grant that may have happened.
    pub(super) fn withdraw(&self, end: EndAsk, until: Deadline, names: Option<Names>) {
        self.push(LooseEnd { names, ..LooseEnd::new(end, Some(until)) });
    }

    fn push(&self, end: LooseEnd) {
        self.list.lock().push(end);
        self.called.notify_one();
    }

    /// Puts one back, for a later try.
    pub(super) fn put_back(&self, mut end: LooseEnd) {
        end.due = Deadline::after(end.pause);
        end.pause = end.pause.saturating_mul(2).min(PAUSE_MAX);
        let mut list = self.list.lock();
        list.push(end);
        // Under the lock, so that none is counted twice.
        self.busy.fetch_sub(1, Ordering::Relaxed);
        drop(list);
        self.called.notify_one();
    }

    /// Those to be settled now, and when the next ones are.
    pub(super) fn take_due(&self) -> (Vec<LooseEnd>, Option<Instant>) {
        let mut list = self.list.lock();
        let (due, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *list).into_iter().partition(|end| end.due.has_passed());
        *list = left;
        // Under the lock, so that none is counted nowhere.
        self.busy.fetch_add(due.len(), Ordering::Relaxed);
        (due, list.iter().filter_map(|end| end.due.instant()).min())
    }

    /// One that was taken is settled.
    pub(super) fn settled(&self) {
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn len(&self) -> usize {
        self.list.lock().len() + self.busy.load(Ordering::Relaxed)
    }
}
