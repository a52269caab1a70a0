//! `Intake`: calls wait here for a free connection. Calls that arrive while all connections are
//! busy go into the next statement. A call that finds a connection free waits for no other call.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use super::connection::Link;
use super::statement::{Ask, Miss, Statement};
use super::statements::begin::BeginAsk;
use super::statements::change::ChangeAsk;
use super::statements::end::{EndAsk, GentleEnd};
use super::statements::grant::GrantAsk;
use super::statements::limited::{LimitedBegin, LimitedGrant};
use super::statements::look::{LookAsk, WantAsk};
use crate::clock::Deadline;
use crate::error::StoreFailure;
use crate::sync::Mutex;

/// Something to do with a connection that is no group.
pub(super) struct Errand {
    pub(super) deadline: Deadline,
    pub(super) run: ErrandCall,
}

pub(super) type ErrandCall = Box<dyn FnOnce(Rc<Link>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// What one connection does next.
pub(super) enum Work {
    Begins(Vec<Ask<BeginAsk>>),
    LimitedBegins(Vec<Ask<LimitedBegin>>),
    Ends(Vec<Ask<EndAsk>>),
    GentleEnds(Vec<Ask<GentleEnd>>),
    Grants(Vec<Ask<GrantAsk>>),
    LimitedGrants(Vec<Ask<LimitedGrant>>),
    Changes(Vec<Ask<ChangeAsk>>),
    Looks(Vec<Ask<LookAsk>>),
    Wants(Vec<Ask<WantAsk>>),
    Errand(Errand),
}

#[derive(Default)]
pub(super) struct Queues {
    begins: VecDeque<Ask<BeginAsk>>,
    limited_begins: VecDeque<Ask<LimitedBegin>>,
    ends: VecDeque<Ask<EndAsk>>,
    gentle_ends: VecDeque<Ask<GentleEnd>>,
    grants: VecDeque<Ask<GrantAsk>>,
    limited_grants: VecDeque<Ask<LimitedGrant>>,
    changes: VecDeque<Ask<ChangeAsk>>,
    looks: VecDeque<Ask<LookAsk>>,
    wants: VecDeque<Ask<WantAsk>>,
    errands: VecDeque<Errand>,
    /// The kind that is looked at first, so that none waits for ever.
    turn: usize,
    is_closed: bool,
}

/// A kind of call that has a queue.
pub(super) trait Queued: Statement {
    /// Whether its calls end claims, or keep what was granted in order. They pass the limit of
    /// the queue: the number of claims limits them.
    const PASSES_THE_LIMIT: bool;

    fn queue(queues: &mut Queues) -> &mut VecDeque<Ask<Self>>;

    /// After a group that waited for a row for too long: sends its calls in a form that passes
    /// over such rows, if there is one. Otherwise they come back.
    fn again_gently(_intake: &Intake, asks: Vec<Ask<Self>>) -> Vec<Ask<Self>> {
        asks
    }
}

macro_rules! queued {
    ($ask:ty, $queue:ident, $passes:expr) => {
        impl Queued for $ask {
            const PASSES_THE_LIMIT: bool = $passes;

            fn queue(queues: &mut Queues) -> &mut VecDeque<Ask<Self>> {
                &mut queues.$queue
            }
        }
    };
}

queued!(BeginAsk, begins, false);
queued!(LimitedBegin, limited_begins, false);
queued!(GentleEnd, gentle_ends, true);
queued!(GrantAsk, grants, false);
queued!(LimitedGrant, limited_grants, false);
queued!(ChangeAsk, changes, true);
queued!(LookAsk, looks, false);
queued!(WantAsk, wants, true);

impl Queued for EndAsk {
    const PASSES_THE_LIMIT: bool = true;

    fn queue(queues: &mut Queues) -> &mut VecDeque<Ask<Self>> {
        &mut queues.ends
    }

    fn again_gently(intake: &Intake, asks: Vec<Ask<Self>>) -> Vec<Ask<Self>> {
        let gentle = |Ask { what, deadline, reply }| Ask { what: GentleEnd(what), deadline, reply };
        intake.put_back(asks.into_iter().map(gentle).collect(), &StoreFailure::behind());
        Vec::new()
    }
}

/// The queues.
pub(super) struct Intake {
    /// Leaf lock.
    queues: Mutex<Queues>,
    arrived: Notify,
    group_max: usize,
    queued_max: usize,
}

/// Kinds of calls. Errands are one of them, and come one at a time.
const KINDS: usize = 10;

/// About how many bytes one statement sends.
const GROUP_BYTES_MAX: usize = 4 << 20;

impl Intake {
    pub(super) fn new(group_max: usize, queued_max: usize) -> Self {
        Self { queues: Mutex::default(), arrived: Notify::new(), group_max, queued_max }
    }

    pub(super) fn push<S: Queued>(&self, ask: Ask<S>) -> Result<(), Miss> {
        let mut queues = self.queues.lock();
        if queues.is_closed {
            return Err(Miss::Closed);
        }
        let queue = S::queue(&mut queues);
        if queue.len() >= self.queued_max && !S::PASSES_THE_LIMIT {
            return Err(Miss::Busy(self.queued_max));
        }
        queue.push_back(ask);
        drop(queues);
        self.arrived.notify_one();
        Ok(())
    }

    /// Calls that have no whole answer yet come first in the next group.
    pub(super) fn put_back<S: Queued>(&self, asks: Vec<Ask<S>>, failure: &StoreFailure) {
        let (over, asks): (Vec<_>, Vec<_>) = asks.into_iter().partition(|ask| ask.deadline.has_passed());
        refuse(over, failure);
        if asks.is_empty() {
            return;
        }
        let mut queues = self.queues.lock();
        if queues.is_closed {
            drop(queues);
            // Each is answered that there is no answer.
            drop(asks);
            return;
        }
        let queue = S::queue(&mut queues);
        for ask in asks.into_iter().rev() {
            queue.push_front(ask);
        }
        drop(queues);
        self.arrived.notify_one();
    }

    pub(super) fn push_errand(&self, errand: Errand) -> Result<(), Miss> {
        let mut queues = self.queues.lock();
        if queues.is_closed {
            return Err(Miss::Closed);
        }
        if queues.errands.len() >= self.queued_max {
            return Err(Miss::Busy(self.queued_max));
        }
        queues.errands.push_back(errand);
        drop(queues);
        self.arrived.notify_one();
        Ok(())
    }

    /// The next work for a free connection.
    pub(super) async fn next(&self) -> Work {
        loop {
            if let Some(work) = self.take() {
                return work;
            }
            self.arrived.notified().await;
        }
    }

    fn take(&self) -> Option<Work> {
        let mut queues = self.queues.lock();
        for _ in 0..KINDS {
            queues.turn = (queues.turn + 1) % KINDS;
            let work = match queues.turn {
                0 => self.group(&mut queues).map(Work::Begins),
                1 => self.group(&mut queues).map(Work::Ends),
                2 => self.group(&mut queues).map(Work::GentleEnds),
                3 => self.group(&mut queues).map(Work::Grants),
                4 => self.group(&mut queues).map(Work::Changes),
                5 => self.group(&mut queues).map(Work::Looks),
                6 => self.group(&mut queues).map(Work::LimitedBegins),
                7 => self.group(&mut queues).map(Work::LimitedGrants),
                8 => queues.errands.pop_front().map(Work::Errand),
                _ => self.group(&mut queues).map(Work::Wants),
            };
            if work.is_some() {
                return work;
            }
        }
        None
    }

    /// The next group of one kind. The statements lock rows in the order of their digests: two
    /// groups that locked each other's rows in turn would deadlock, and one would be aborted.
    fn group<S: Queued>(&self, queues: &mut Queues) -> Option<Vec<Ask<S>>> {
        let queue = S::queue(queues);
        let (mut group, mut later, mut bytes) = (Vec::new(), VecDeque::new(), 0_usize);
        let mut digests = HashSet::new();
        while group.len() < self.group_max.min(S::GROUP_MAX)
            && bytes < GROUP_BYTES_MAX
            && let Some(ask) = queue.pop_front()
        {
            if S::IS_ONE_A_KEY && !digests.insert(ask.what.digest()) {
                later.push_back(ask);
                continue;
            }
            bytes += ask.what.bytes();
            group.push(ask);
        }
        later.append(queue);
        *queue = later;
        (!group.is_empty()).then_some(group)
    }

    /// Answers the calls whose time is up while no connection took them.
    pub(super) fn expire(&self, failure: &StoreFailure) {
        // The clock is read once, and not under the lock for each call.
        let now = Deadline::after(Duration::ZERO);
        let mut queues = self.queues.lock();
        let over = (
            expired(&mut queues.begins, now),
            expired(&mut queues.ends, now),
            expired(&mut queues.gentle_ends, now),
            expired(&mut queues.grants, now),
            expired(&mut queues.changes, now),
            expired(&mut queues.looks, now),
            expired(&mut queues.wants, now),
            expired(&mut queues.limited_begins, now),
            expired(&mut queues.limited_grants, now),
        );
        let (errands, left): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut queues.errands)
            .into_iter()
            .partition(|errand| !now.is_before(errand.deadline));
        queues.errands = left;
        drop(queues);
        refuse(over.0, failure);
        refuse(over.1, failure);
        refuse(over.2, failure);
        refuse(over.3, failure);
        refuse(over.4, failure);
        refuse(over.5, failure);
        refuse(over.6, failure);
        refuse(over.7, failure);
        refuse(over.8, failure);
        // Its caller gets no answer, which says the same.
        drop(errands);
    }

    pub(super) fn is_empty(&self) -> bool {
        let queues = self.queues.lock();
        queues.begins.is_empty()
            && queues.ends.is_empty()
            && queues.gentle_ends.is_empty()
            && queues.grants.is_empty()
            && queues.changes.is_empty()
            && queues.looks.is_empty()
            && queues.wants.is_empty()
            && queues.limited_begins.is_empty()
            && queues.limited_grants.is_empty()
            && queues.errands.is_empty()
    }

    /// Takes no more calls, and drops those that wait: each is answered that there is no answer.
    pub(super) fn close(&self) {
        let mut queues = self.queues.lock();
        let left = std::mem::replace(&mut *queues, Queues { is_closed: true, ..Queues::default() });
        drop(queues);
        drop(left);
    }
}

/// Calls may have limits of their own, and those that are sent again keep theirs: any of them can be
/// the next whose time is up.
fn expired<S: Statement>(queue: &mut VecDeque<Ask<S>>, now: Deadline) -> Vec<Ask<S>> {
    let is_over = |ask: &Ask<S>| !now.is_before(ask.deadline);
    if !queue.iter().any(is_over) {
        return Vec::new();
    }
    let (over, left): (VecDeque<_>, VecDeque<_>) = std::mem::take(queue).into_iter().partition(is_over);
    *queue = left;
    over.into()
}

fn refuse<S: Statement>(over: Vec<Ask<S>>, failure: &StoreFailure) {
    for ask in over {
        ask.reply.send(Err(Miss::NotDone(failure.clone())));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::key::Digest;
    use crate::task::reply;

    #[test]
    fn a_call_whose_time_is_up_waits_behind_none_that_has_more() {
        let intake = Intake::new(10, 10);
        let send = |time: u64| {
            let (reply, answer) = reply::pair();
            let what = LookAsk { digest: Digest::from_u128(1) };
            let ask = Ask { what, deadline: Deadline::after(Duration::from_secs(time)), reply };
            assert!(intake.push(ask).is_ok());
            answer
        };
        let (patient, brief) = (send(600), send(0));
        intake.expire(&StoreFailure::locked());
        assert!(matches!(brief.get().now_or_never(), Some(Some(Err(Miss::NotDone(_))))));
        assert!(patient.get().now_or_never().is_none());
    }
}
