//! Crashes at every operation of the disk, from what it recorded while a script ran once.

use idemkv::sim::{CrashKind, ManualClock, Moment, Operation, SimDisk};

use crate::oracle::Oracle;
use crate::script::Random;
use crate::world::World;

/// About as many operations as a recovery has.
const RECOVERY: u64 = 20;

/// What is looked at while a script runs.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    plan: Plan,
    random: Random,
    /// Crash images so far.
    pub(crate) images: u64,
    /// Operations of the disk, where they are listed.
    pub(crate) operations: Vec<(u64, Operation)>,
}

#[derive(Clone, Copy, Debug)]
enum Plan {
    Nothing,
    /// Which operations there are.
    List,
    /// Every operation: all, none, and so many times some of the sectors survive.
    Every {
        torn: u64,
    },
    /// Every operation, and every subset of the newest pieces, with those before them kept and
    /// dropped.
    Subsets {
        newest_max: u64,
    },
    /// One of so many operations, and then some of the recoveries', this deep.
    Deep {
        one_of: u64,
        depth: u32,
    },
}

impl Plan {
    /// What is looked at while a recovery is under way.
    fn of_recovery(self) -> Self {
        match self {
            Self::Deep { depth, .. } if depth > 0 => Self::Deep { one_of: RECOVERY, depth: depth - 1 },
            Self::Nothing | Self::List | Self::Every { .. } | Self::Subsets { .. } | Self::Deep { .. } => {
                Self::Nothing
            }
        }
    }
}

impl Watch {
    fn new(plan: Plan, seed: u64) -> Self {
        Self { plan, random: Random::new(seed), images: 0, operations: Vec::new() }
    }

    pub(crate) fn nothing() -> Self {
        Self::new(Plan::Nothing, 0)
    }

    /// Looks at nothing, but lists the operations of the disk.
    pub(crate) fn list() -> Self {
        Self::new(Plan::List, 0)
    }

    /// Crashes at every operation.
    pub(crate) fn every_operation(seed: u64) -> Self {
        Self::new(Plan::Every { torn: 2 }, seed)
    }

    /// Crashes at some operations, and three times more while recovering.
    pub(crate) fn recoveries(seed: u64) -> Self {
        Self::new(Plan::Deep { one_of: 8, depth: 3 }, seed)
    }

    /// Crashes at every operation, with every subset of the newest pieces that were not synced.
    pub(crate) fn subsets(newest_max: u64) -> Self {
        Self::new(Plan::Subsets { newest_max }, 1)
    }

    pub(crate) fn start(&self, disk: &SimDisk) {
        if !matches!(self.plan, Plan::Nothing) {
            disk.record();
        }
    }

    /// Opens what a crash at this moment leaves, and compares it with what the oracle allows.
    pub(crate) fn look(
        &mut self,
        moment: &Moment,
        oracle: &Oracle,
        clock: &ManualClock,
        keys: u64,
        at: &str,
    ) {
        match self.plan {
            Plan::Nothing => {}
            Plan::List => self.operations.push((moment.number(), moment.operation())),
            Plan::Every { torn } => {
                let torn: Vec<_> = (0..torn).map(|_| CrashKind::Torn(self.random.below(1 << 32))).collect();
                for kind in [CrashKind::KeepAll, CrashKind::DropAll].into_iter().chain(torn) {
                    // All kinds leave the same where nothing is pending.
                    if !moment.is_synced() || kind == CrashKind::KeepAll {
                        self.crash(moment, kind, oracle, clock, keys, at);
                    }
                }
            }
            Plan::Subsets { newest_max } => {
                let pieces = moment.pieces();
                for newest in 0..1 << pieces.min(newest_max) {
                    for older in [false, true] {
                        if pieces > newest_max || !older {
                            self.crash(moment, CrashKind::Subset { newest, older }, oracle, clock, keys, at);
                        }
                    }
                }
            }
            Plan::Deep { one_of, .. } => {
                if self.random.below(one_of) == 0 {
                    let kind = match self.random.below(4) {
                        0 => CrashKind::KeepAll,
                        1 => CrashKind::DropAll,
                        _ => CrashKind::Torn(self.random.below(1 << 32)),
                    };
                    self.crash(moment, kind, oracle, clock, keys, at);
                }
            }
        }
    }

    fn crash(
        &mut self,
        moment: &Moment,
        kind: CrashKind,
        oracle: &Oracle,
        clock: &ManualClock,
        keys: u64,
        at: &str,
    ) {
        let seed = self.random.below(1 << 32);
        let watch = Self::new(self.plan.of_recovery(), seed);
        let at = format!("{at}, crash at operation {} of the disk, {kind:?}", moment.number());
        // Recovering takes no time. Where nothing is lost the process alone may have died.
        let (clock, mut oracle) = (clock.fork(), oracle.clone());
        if kind != CrashKind::KeepAll || seed.is_multiple_of(2) {
            clock.reboot();
            oracle.has_booted = true;
        }
        let mut world = World::of_crash(moment.image(kind), clock, oracle, watch, keys, at);
        world.recover(seed);
        self.images += 1 + world.watch.images;
    }
}
