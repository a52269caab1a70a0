//! The engine's own threads. Each starts when it is first called, so an idle engine has only its worker.

use crate::nudge::{Nudge, Nudges};
use crate::sync::{Arc, AtomicBool, JoinHandle, Mutex};

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

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Worker => "idemkv-worker",
            Self::Leader => "idemkv-commit",
            Self::Publisher => "idemkv-publish",
            Self::Reader => "idemkv-reads",
            Self::Timekeeper => "idemkv-timers",
        }
    }
}

/// What the engine's threads are called by.
pub(super) struct Bells {
    pub(super) worker: Nudge,
    pub(super) leader: Nudge,
    pub(super) publisher: Nudge,
    pub(super) reader: Nudge,
    pub(super) timekeeper: Nudge,
    pub(super) crew: Crew,
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
    pub(super) roster: Mutex<Roster>,
    /// A thread could not be started, so the worker does its work too.
    pub(super) is_short: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct Roster {
    pub(super) threads: Vec<JoinHandle<()>>,
    /// The engine is closed: no thread starts any more.
    pub(super) is_dismissed: bool,
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

    pub(super) fn nudges(&self, role: Role) -> &Arc<Nudges> {
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
