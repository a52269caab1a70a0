//! The engine's own threads. Each starts when it is first woken, so an idle engine has only its
//! worker.

use super::reads::READERS;
use crate::commit::Threads;
use crate::sync::{Arc, AtomicBool, JoinHandle, Mutex};
use crate::task::notifier::{Listener, Notifier};

/// The task of a thread of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum ThreadRole {
    /// Does the background work. Starts with the engine.
    Worker,
    /// Leads commits where no caller does.
    Leader,
    /// Publishes while the leader writes the next group.
    Publisher,
    /// Reads records for tasks: the first of these, and the next where those before it are held up
    /// by slow reads.
    Reader(usize),
    /// Fires the deadlines of tasks, and interrupts claims whose lease has ended.
    Timekeeper,
}

impl ThreadRole {
    pub(in crate::engine) fn name(self) -> &'static str {
        match self {
            Self::Worker => "idemkv-worker",
            Self::Leader => "idemkv-commit",
            Self::Publisher => "idemkv-publish",
            Self::Reader(_) => "idemkv-reads",
            Self::Timekeeper => "idemkv-timers",
        }
    }
}

/// The notifiers that wake the engine's threads.
pub(in crate::engine) struct Notifiers {
    pub(in crate::engine) worker: Notifier,
    pub(super) leader: Notifier,
    pub(super) publisher: Notifier,
    pub(in crate::engine) readers: Vec<Notifier>,
    pub(in crate::engine) timekeeper: Notifier,
    pub(in crate::engine) threads: EngineThreads,
}

impl Notifiers {
    /// The notifiers of the threads that a commit wakes.
    pub(in crate::engine) fn of_commits(&self) -> Threads {
        let [leader, press, worker] =
            [&self.leader, &self.publisher, &self.worker].map(|notifier| Some(notifier.clone()));
        Threads { leader, press, worker }
    }
}

/// The engine's threads, those that run and those that have not started.
#[derive(Debug)]
pub(crate) struct EngineThreads {
    worker: Arc<Listener>,
    leader: Arc<Listener>,
    publisher: Arc<Listener>,
    readers: Vec<Arc<Listener>>,
    timekeeper: Arc<Listener>,
    /// Held while a thread starts. A notifier is locked under it.
    pub(in crate::engine) started: Mutex<StartedThreads>,
    /// A thread could not be started, so the worker does its work too.
    pub(in crate::engine) is_short: AtomicBool,
}

#[derive(Debug, Default)]
pub(in crate::engine) struct StartedThreads {
    pub(in crate::engine) handles: Vec<JoinHandle<()>>,
    /// The engine is closed: no thread starts any more.
    pub(in crate::engine) is_dismissed: bool,
}

impl EngineThreads {
    /// Notifiers for threads that do not run yet.
    pub(in crate::engine) fn notifiers() -> Notifiers {
        let ((worker, at_work), (leader, at_lead)) = (Notifier::pair(), Notifier::pair());
        let ((publisher, at_press), (timekeeper, at_clock)) = (Notifier::pair(), Notifier::pair());
        let (readers, at_books): (Vec<_>, Vec<_>) = (0..READERS).map(|_| Notifier::pair()).unzip();
        let threads = Self {
            worker: Arc::new(at_work),
            leader: Arc::new(at_lead),
            publisher: Arc::new(at_press),
            readers: at_books.into_iter().map(Arc::new).collect(),
            timekeeper: Arc::new(at_clock),
            started: Mutex::default(),
            is_short: AtomicBool::new(false),
        };
        Notifiers { worker, leader, publisher, readers, timekeeper, threads }
    }

    pub(in crate::engine) fn listener(&self, role: ThreadRole) -> &Arc<Listener> {
        match role {
            ThreadRole::Worker => &self.worker,
            ThreadRole::Leader => &self.leader,
            ThreadRole::Publisher => &self.publisher,
            ThreadRole::Reader(number) => {
                self.readers.get(number).unwrap_or_else(|| unreachable!("a file has {READERS} readers"))
            }
            ThreadRole::Timekeeper => &self.timekeeper,
        }
    }

    /// Stops any further start, and returns the running threads to join.
    pub(in crate::engine) fn dismiss(&self) -> Vec<JoinHandle<()>> {
        let mut started = self.started.lock();
        started.is_dismissed = true;
        std::mem::take(&mut started.handles)
    }
}
