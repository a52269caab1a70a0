//! The engine's own threads. Each starts when it is first called, so an idle engine has only its worker.

use std::io;

use super::core::Core;
use super::{Bells, maintain};
use crate::clock::Deadline;
use crate::commit::Duty;
use crate::nudge::{Nudge, Nudges};
use crate::sync::{Arc, AtomicBool, JoinHandle, Mutex, Ordering, spawn};

/// What a thread of the engine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Does the work of the background. Starts with the engine.
    Worker,
    /// Leads commits where no caller does.
    Leader,
    /// Publishes where the leader has the next group to write.
    Publisher,
    /// Reads records for tasks.
    Reader,
    /// Fires the deadlines of tasks, and tells of leases that have ended.
    Timekeeper,
}

type Body = fn(&Core, &Nudges);

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Worker => "idemkv-worker",
            Self::Leader => "idemkv-commit",
            Self::Publisher => "idemkv-publish",
            Self::Reader => "idemkv-reads",
            Self::Timekeeper => "idemkv-timers",
        }
    }

    fn body(self) -> Body {
        match self {
            Self::Worker => maintain::work,
            Self::Leader => maintain::lead,
            Self::Publisher => maintain::publish,
            Self::Reader => maintain::read,
            Self::Timekeeper => maintain::keep_time,
        }
    }
}

/// The engine's threads, those that run and those that nobody has called yet.
#[derive(Debug)]
pub(crate) struct Crew {
    worker: Arc<Nudges>,
    leader: Arc<Nudges>,
    publisher: Arc<Nudges>,
    reader: Arc<Nudges>,
    timekeeper: Arc<Nudges>,
    /// Held while a thread starts. A bell is locked under it.
    roster: Mutex<Roster>,
    /// A thread could not be started, so the worker does its work too.
    is_short: AtomicBool,
}

#[derive(Debug, Default)]
struct Roster {
    threads: Vec<JoinHandle<()>>,
    /// The engine is closed: no thread starts any more.
    is_dismissed: bool,
}

impl Crew {
    /// Bells for threads that do not run yet.
    pub(super) fn bells() -> Bells {
        let (((worker, at_work), (leader, at_lead)), ((publisher, at_press), (reader, at_books))) =
            ((Nudge::pair(), Nudge::pair()), (Nudge::pair(), Nudge::pair()));
        let (timekeeper, at_clock) = Nudge::pair();
        let crew = Self {
            worker: Arc::new(at_work),
            leader: Arc::new(at_lead),
            publisher: Arc::new(at_press),
            reader: Arc::new(at_books),
            timekeeper: Arc::new(at_clock),
            roster: Mutex::default(),
            is_short: AtomicBool::new(false),
        };
        Bells { worker, leader, publisher, reader, timekeeper, crew }
    }

    fn nudges(&self, role: Role) -> &Arc<Nudges> {
        match role {
            Role::Worker => &self.worker,
            Role::Leader => &self.leader,
            Role::Publisher => &self.publisher,
            Role::Reader => &self.reader,
            Role::Timekeeper => &self.timekeeper,
        }
    }

    /// Lets no thread start any more; gives those that run, to be joined.
    pub(super) fn dismiss(&self) -> Vec<JoinHandle<()>> {
        let mut roster = self.roster.lock();
        roster.is_dismissed = true;
        std::mem::take(&mut roster.threads)
    }
}

impl Core {
    /// Starts the worker, and has every other thread start at its first call.
    pub(super) fn start_threads(core: &Arc<Self>) -> io::Result<()> {
        for role in [Role::Leader, Role::Publisher, Role::Reader, Role::Timekeeper] {
            let weak = Arc::downgrade(core);
            core.crew.nudges(role).start_when_called(move || {
                if let Some(core) = weak.upgrade() {
                    Self::summon(&core, role);
                }
            });
        }
        Self::hire(core, Role::Worker)
    }

    /// Starts a thread that was called. Where the system has none to give, the worker stands in, and the next call tries again.
    fn summon(core: &Arc<Self>, role: Role) {
        if Self::hire(core, role).is_err() {
            core.crew.is_short.store(true, Ordering::Release);
            core.worker.nudge();
        }
    }

    fn hire(core: &Arc<Self>, role: Role) -> io::Result<()> {
        let (nudges, mut roster) = (core.crew.nudges(role), core.crew.roster.lock());
        if roster.is_dismissed || !nudges.take_up() {
            return Ok(());
        }
        let (theirs, listens) = (Arc::clone(core), Arc::clone(nudges));
        let started = spawn(role.name(), move || role.body()(&theirs, &listens));
        roster.threads.push(started.inspect_err(|_| nudges.lay_down())?);
        Ok(())
    }

    /// Does the work of threads that could not be started; gives the time until which there is nothing to do. For the worker.
    pub(super) fn stand_in(&self) -> Deadline {
        if !self.crew.is_short.load(Ordering::Acquire) {
            return Deadline::NEVER;
        }
        self.keep_time();
        let next = self.commit.lead_if_called(Duty::BesideOthers);
        self.commit.publish_what_is_written();
        self.reads.serve(&self.store);
        next.min(self.next_end())
    }
}

#[cfg(test)]
#[cfg(not(any(idemkv_loom, idemkv_shuttle)))]
mod tests {
    use futures_executor::block_on;

    use crate::sync::{Ordering, without_threads};
    use crate::{Begin, Engine, Fingerprint, Status};

    #[test]
    fn where_no_thread_can_be_started_the_worker_does_the_work_of_all() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("x.idem");
        let engine = Engine::options().cache_bytes(0).open(&path).unwrap();
        without_threads(|| {
            let request = Fingerprint::of("request");
            let Ok(Begin::Fresh(claim)) = block_on(engine.begin_async("key", request)) else { panic!() };
            block_on(claim.complete_async("reply")).unwrap();
            engine.checkpoint().unwrap();
            assert!(matches!(block_on(engine.get_async("key")), Ok(Status::Done(_))));
        });
        // The worker, which may start threads here, may have called for one by now.
        assert!(engine.handle.core().crew.is_short.load(Ordering::Acquire));
        // The next call tries again.
        let Ok(Begin::Fresh(claim)) = block_on(engine.begin_async("other", Fingerprint::of(""))) else {
            panic!()
        };
        block_on(claim.release_async()).unwrap();
        assert!(engine.handle.core().crew.roster.lock().threads.len() >= 2);
        engine.close().unwrap();
    }
}
