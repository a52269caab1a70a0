//! Starts the engine's threads, each when it is first woken.

use std::io;
use std::time::Duration;

use crate::clock::Deadline;
use crate::commit::Duty;
use crate::engine::background::{timekeeper, worker};
use crate::engine::core::Core;
use crate::engine::core::reads::{READERS, STAND_IN};
use crate::engine::core::threads::ThreadRole;
use crate::foreign::contain;
use crate::sync::{Arc, Ordering, spawn};
use crate::task::notifier::Listener;

/// The threads that start when they are first woken.
fn started_late() -> impl Iterator<Item = ThreadRole> {
    [ThreadRole::Leader, ThreadRole::Publisher, ThreadRole::Timekeeper]
        .into_iter()
        .chain((0..READERS).map(ThreadRole::Reader))
}

fn run(role: ThreadRole, core: &Core, listener: &Listener) {
    match role {
        ThreadRole::Worker => worker::work(core, listener),
        ThreadRole::Leader => lead(core, listener),
        ThreadRole::Publisher => publish(core, listener),
        ThreadRole::Reader(number) => read(core, listener, number),
        ThreadRole::Timekeeper => timekeeper::keep_time(core, listener),
    }
}

impl Core {
    /// Starts the worker; every other thread starts when it is first woken.
    pub(in crate::engine) fn start_threads(core: &Arc<Self>) -> io::Result<()> {
        for role in started_late() {
            let weak = Arc::downgrade(core);
            core.threads.listener(role).start_when_called(move || {
                if let Some(core) = weak.upgrade() {
                    Self::summon(&core, role);
                }
            });
        }
        Self::hire(core, ThreadRole::Worker)
    }

    /// Starts a thread that was woken. If the system refuses, the worker stands in, and the next
    /// wake-up tries again. For a reader beside the first it does not: it would be held up by the
    /// slow reads that the others should be spared.
    fn summon(core: &Arc<Self>, role: ThreadRole) {
        let is_spare = matches!(role, ThreadRole::Reader(1..));
        if Self::hire(core, role).is_err() && !is_spare {
            core.threads.is_short.store(true, Ordering::Release);
            core.worker.notify();
        }
    }

    fn hire(core: &Arc<Self>, role: ThreadRole) -> io::Result<()> {
        let (listener, mut threads) = (core.threads.listener(role), core.threads.started.lock());
        if threads.is_dismissed || !listener.take_up() {
            return Ok(());
        }
        let (theirs, listens) = (Arc::clone(core), Arc::clone(listener));
        let started = spawn(role.name(), move || run(role, &theirs, &listens));
        threads.handles.push(started.inspect_err(|_| listener.lay_down())?);
        Ok(())
    }

    /// Does the work of threads that could not be started, and have not been since; returns the
    /// time until which there is nothing to do. For the worker.
    pub(in crate::engine) fn stand_in(&self) -> Deadline {
        if !self.threads.is_short.load(Ordering::Acquire) {
            return Deadline::NEVER;
        }
        let is_missing = |role| !self.threads.listener(role).has_thread();
        let mut next = Deadline::NEVER;
        if is_missing(ThreadRole::Timekeeper) {
            self.keep_time();
            next = self.next_end();
        }
        if is_missing(ThreadRole::Leader) {
            next = next.min(self.commit.lead_if_called(Duty::BesideOthers));
        }
        if is_missing(ThreadRole::Publisher) {
            self.commit.publish_what_is_written();
        }
        if is_missing(ThreadRole::Reader(0)) {
            self.reads.serve(&self.store, &self.clock, Some(STAND_IN));
            // The task that was woken last may have forked.
            if !self.is_closed() && self.reads.have_jobs() {
                next = Deadline::after(Duration::ZERO);
            }
        }
        next
    }
}

/// The thread that leads commits where no caller does.
fn lead(core: &Core, listener: &Listener) {
    while listener.wait(core.commit.lead_if_called(Duty::Sole)) && core.health.is_open() {}
}

/// The thread that publishes while the leader writes the next group.
fn publish(core: &Core, listener: &Listener) {
    while listener.wait(Deadline::NEVER) && core.health.is_open() {
        core.commit.publish_what_is_written();
    }
}

/// A thread that reads records for tasks.
fn read(core: &Core, listener: &Listener, number: usize) {
    while listener.wait(Deadline::NEVER) && core.health.is_open() {
        contain(|| core.reads.serve(&core.store, &core.clock, Some(number)));
    }
}

#[cfg(test)]
#[cfg(not(any(idemkv_loom, idemkv_shuttle)))]
mod tests {
    use super::*;
    use futures_executor::block_on;

    use crate::sync::{Ordering, without_threads};
    use crate::{Begin, Engine, Failure, Fingerprint, Status, Waited};

    #[test]
    fn where_no_thread_can_be_started_the_worker_does_the_work_of_all() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("x.idem");
        let engine = Engine::options().cache_bytes(0).open(&path).unwrap();
        without_threads(|| {
            let request = Fingerprint::of("request");
            let Ok(Begin::Fresh(claim)) = block_on(engine.default_scope().begin_async("key", request)) else {
                panic!()
            };
            block_on(claim.complete_async("reply")).unwrap();
            engine.checkpoint().unwrap();
            assert!(matches!(block_on(engine.default_scope().get_async("key")), Ok(Status::Done(_))));
        });
        // The worker, which may start threads here, may have called for one by now.
        assert!(engine.handle.core().threads.is_short.load(Ordering::Acquire));
        // The next call tries again.
        let Ok(Begin::Fresh(claim)) =
            block_on(engine.default_scope().begin_async("other", Fingerprint::of("")))
        else {
            panic!()
        };
        block_on(claim.release_async()).unwrap();
        assert!(engine.handle.core().threads.started.lock().handles.len() >= 2);
        engine.close().unwrap();
    }

    /// The system refused a thread once, of whatever kind. Since then the worker read for tasks.
    #[cfg(feature = "sim")]
    #[test]
    fn the_worker_stands_in_for_no_thread_that_has_started_since() {
        let disk = crate::sim::SimDisk::new();
        let engine = Engine::options().disk(&disk).stepped().cache_bytes(0).open("x.idem").unwrap();
        let scope = engine.default_scope();
        let Ok(Begin::Fresh(claim)) = scope.begin("key", Fingerprint::of("")) else { panic!() };
        claim.complete("reply").unwrap();
        engine.checkpoint().unwrap();
        let core = engine.handle.core();
        core.threads.is_short.store(true, Ordering::Release);
        let reader = core.threads.listener(ThreadRole::Reader(0));
        assert!(reader.take_up());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut get = std::pin::pin!(scope.get_async("key"));
        assert!(get.as_mut().poll(&mut context).is_pending());
        core.stand_in();
        assert!(get.as_mut().poll(&mut context).is_pending(), "the reader has it");
        reader.lay_down();
        core.stand_in();
        assert!(get.as_mut().poll(&mut context).is_ready());
    }

    /// With 1,024 reads of half a minute each, claims waited for hours for what the worker does.
    #[cfg(feature = "sim")]
    #[test]
    fn a_worker_that_stands_in_for_a_reader_on_a_slow_disk_goes_back_to_its_work() {
        let disk = crate::sim::SimDisk::new();
        let open = || Engine::options().disk(&disk).stepped().cache_bytes(0).open("x.idem").unwrap();
        let engine = open();
        // More than redb keeps in memory.
        let keys = ["a", "b", "c", "d", "e", "f"];
        for key in keys {
            let begun = engine.default_scope().begin(key, Fingerprint::of(""));
            let Ok(Begin::Fresh(claim)) = begun else { panic!("{begun:?}") };
            claim.complete(vec![7; 500_000]).unwrap();
            engine.checkpoint().unwrap();
        }
        engine.close().unwrap();
        let engine = open();
        let scope = engine.default_scope();
        disk.before_reads(|_| {
            let slow = Deadline::after(Duration::from_millis(150));
            while !slow.has_passed() {}
        });
        let core = engine.handle.core();
        core.threads.is_short.store(true, Ordering::Release);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut gets = keys.map(|key| Box::pin(scope.get_async(key)));
        assert!(gets.iter_mut().all(|get| get.as_mut().poll(&mut context).is_pending()));
        core.stand_in();
        assert!(core.reads.have_jobs(), "it read all");
        while core.reads.have_jobs() {
            assert!(core.stand_in().has_passed(), "it comes again at once");
        }
        assert!(gets.iter_mut().all(|get| get.as_mut().poll(&mut context).is_ready()));
    }

    #[cfg(feature = "sim")]
    #[test]
    fn the_engines_threads_end_where_nobody_can_call_them_any_more() {
        let engine = Engine::options().disk(&crate::sim::SimDisk::new()).stepped().open("x.idem").unwrap();
        for role in started_late().chain([ThreadRole::Worker]) {
            let (_, listener) = crate::task::notifier::Notifier::pair();
            run(role, engine.handle.core(), &listener);
        }
    }

    #[test]
    fn an_engine_that_finds_no_thread_to_close_on_stays_open_and_says_so() {
        let scratch = tempfile::tempdir().unwrap();
        let engine = Engine::open(scratch.path().join("x.idem")).unwrap();
        let request = Fingerprint::of("request");
        let Ok(Begin::Fresh(claim)) = engine.default_scope().begin("key", request) else { panic!() };
        let Ok(Begin::InFlight(pending)) = engine.default_scope().begin("key", request) else { panic!() };
        let closed = engine.read_tables(|_| {
            let mut closed = None;
            without_threads(|| closed = Some(engine.clone().close()));
            closed
        });
        assert!(matches!(closed, Ok(Some(Err(Failure::Io(_))))), "{closed:?}");
        claim.complete("reply").unwrap();
        assert!(matches!(pending.wait(), Ok(Waited::Done(_))));
        assert_eq!(engine.close().unwrap().claims_left, 0);
    }
}
