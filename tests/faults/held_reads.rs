//! Lookups that are held between their read of the disk and their second look at the index, while
//! checkpoints fail and succeed.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, mpsc};
use std::task::Poll;

use crate::common::budget::Budget;
use crate::common::random::Random;
use crate::common::{Machine, poll, request};
use crate::returned::{DAY, two_groups};
use idemkv::sim::DiskFault;
use idemkv::{Begin, BeginError, Engine, Scope, Timestamp};

const RIG: &str = "faults held_reads::no_live_record_is_granted_again_whatever_fails_while_it_is_looked_up";
const EPISODES: u64 = 8;
/// Scopes, how many keys they have, and for how many days these are kept.
const SCOPES: [(&str, u64, u32); 3] = [("first", 16, 1), ("second", 16, 30), ("bulk", 800, 90)];

/// A begin on its way, of a key whose record is live until a known time.
struct Lookup {
    what: String,
    live_until: Timestamp,
    call: Pin<Box<dyn Future<Output = Result<Begin, BeginError>>>>,
}

struct World {
    random: Random,
    machine: Machine,
    engine: Engine,
    /// When the records of a scope were completed at the earliest.
    completed: Timestamp,
    lookups: Vec<Lookup>,
    answered: u64,
    /// What the rounds came to: answers from records, checkpoints that failed while they were
    /// held, lookups that were on their way then.
    done: u64,
    failed: u64,
    held: u64,
    /// A fault since the last checkpoint that succeeded: the next one opens the file again.
    has_failed: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let machine = Machine::default();
        let completed = Timestamp::from_millis(crate::common::START_MS);
        let engine = two_groups(&machine);
        Self {
            random: Random(seed),
            machine,
            engine,
            completed,
            lookups: Vec::new(),
            answered: 0,
            done: 0,
            failed: 0,
            held: 0,
            has_failed: false,
        }
    }

    /// Begins a key that is done.
    fn look(&mut self) {
        let (name, keys, days) = SCOPES[self.random.index(SCOPES.len())];
        let key = self.random.below(keys).to_string();
        let live_until = self.completed.saturating_add(DAY * days);
        let (what, scope): (_, Scope) = (format!("{key} of {name}"), self.engine.scope(name));
        let call = Box::pin(async move { scope.begin_async(key, request()).await });
        self.lookups.push(Lookup { what, live_until, call });
        self.poll(self.lookups.len() - 1);
    }

    fn poll(&mut self, at: usize) {
        let Poll::Ready(answer) = poll(self.lookups[at].call.as_mut()) else { return };
        let lookup = self.lookups.swap_remove(at);
        self.answered += 1;
        match answer {
            Ok(Begin::Fresh(claim)) => {
                let now = self.engine.now();
                assert!(now >= lookup.live_until, "{} is granted again", lookup.what);
                claim.release().ok();
            }
            Ok(Begin::InFlight(_)) => assert!(self.engine.now() >= lookup.live_until, "{}", lookup.what),
            Ok(Begin::Done(record)) => {
                assert!(record.body().starts_with(b"charged "), "{}", lookup.what);
                self.done += 1;
            }
            // A disk that fails may refuse, if it says so.
            Err(BeginError::Io(_) | BeginError::Busy(_) | BeginError::Failed(_)) => {}
            Err(error) => panic!("{}: {error:?}", lookup.what),
        }
    }

    /// Something small that can happen at any moment.
    fn happen(&mut self) {
        match self.random.below(10) {
            0..4 => drop(self.engine.step()),
            4..7 => self.look(),
            7 if !self.lookups.is_empty() => {
                let at = self.random.index(self.lookups.len());
                self.poll(at);
            }
            8 => {
                let number = self.machine.disk.operations() + self.random.below(3);
                self.machine.disk.fault_at(number, DiskFault::Full);
                self.has_failed = true;
            }
            9 => self.fail_reads(),
            _ => {}
        }
    }

    /// A read fails, and the one after it, which asks again; other callers meet both.
    fn fail_reads(&mut self) {
        self.has_failed = true;
        let next = self.machine.disk.reads();
        self.machine.disk.fail_read(next);
        self.machine.disk.fail_read(next + 1);
        let bulk = self.engine.scope("bulk");
        for key in 0..40 {
            drop(bulk.get((key * 20).to_string()));
        }
    }

    /// A checkpoint. It is held at one of the syncs of its commit, while things happen, unless it
    /// opens the file again: readers wait for that.
    fn checkpoint(&mut self) {
        if self.has_failed {
            self.machine.disk.mend();
            self.has_failed = self.engine.checkpoint().is_err();
            return;
        }
        let (hold_at, syncs) = (self.random.below(2), AtomicU32::new(0));
        let (is_held, held) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let channels = Mutex::new((is_held.clone(), may_go));
        self.machine.disk.before_syncs(move |name| {
            if name == "x.idem" && u64::from(syncs.fetch_add(1, Ordering::SeqCst)) == hold_at {
                let channels = channels.lock().unwrap();
                channels.0.send(true).unwrap();
                // The other side is dropped.
                channels.1.recv().unwrap_err();
            }
        });
        let engine = self.engine.clone();
        std::thread::scope(|threads| {
            let checkpoint = threads.spawn(move || {
                let done = engine.checkpoint();
                // It may come to its end without such a sync.
                is_held.send(false).unwrap();
                done
            });
            let is_held = held.recv().unwrap();
            if is_held {
                self.held += self.lookups.len() as u64;
                for _ in 0..self.random.below(8) {
                    self.happen();
                }
            }
            drop(go);
            let failed = checkpoint.join().unwrap().is_err();
            self.failed += u64::from(is_held && failed);
        });
        self.machine.disk.before_syncs(|_| {});
    }

    fn live(&mut self) {
        for _ in 0..EPISODES {
            for _ in 0..self.random.below(4) {
                self.look();
            }
            if self.random.below(4) == 0 {
                let key = format!("new-{}", self.random.below(1 << 40));
                if let Ok(Begin::Fresh(claim)) = self.engine.scope("second").begin(key, request()) {
                    claim.complete("charged ".repeat(400)).ok();
                }
            }
            if self.random.below(12) == 0 {
                self.machine.clock.advance(DAY);
            }
            self.checkpoint();
            if self.random.below(3) == 0 {
                self.happen();
            }
        }
        self.machine.disk.mend();
        for _ in 0..200 {
            if self.lookups.is_empty() {
                break;
            }
            self.engine.step();
            (0..self.lookups.len()).rev().for_each(|at| self.poll(at));
        }
        assert!(self.lookups.is_empty(), "{} is never answered", self.lookups[0].what);
    }
}

#[test]
fn no_live_record_is_granted_again_whatever_fails_while_it_is_looked_up() {
    let mut budget = Budget::new(RIG, "lookups", 40);
    let (mut done, mut failed, mut held) = (0, 0, 0);
    while let Some(seed) = budget.next_seed() {
        let mut world = World::new(seed);
        world.live();
        budget.count(world.answered);
        (done, failed, held) = (done + world.done, failed + world.failed, held + world.held);
    }
    let few = done.min(failed).min(held);
    assert!(few > 5, "{done} replayed, {failed} checkpoints failed while held, {held} lookups held");
}
