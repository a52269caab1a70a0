//! What goes wrong.

use std::path::Path;
use std::time::Duration;

use idemkv::sim::{DiskFault, Operation};

use crate::common::{Machine, START_MS};

const TEN_YEARS_MS: u64 = 10 * 365 * 24 * 3_600_000;

/// The columns of the matrix, in the order of the document.
pub(crate) const FAULTS: [Fault; 13] = [
    Fault::Error,
    Fault::Full,
    Fault::Short,
    Fault::Sync,
    Fault::Torn,
    Fault::Kill,
    Fault::ClockBack,
    Fault::ClockForward,
    Fault::Panic,
    Fault::Fork,
    Fault::Name,
    Fault::TakenAway,
    Fault::FullRestart,
];

/// Where it goes wrong, counted from the start of the phase.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    Operation(u64, Operation),
    Read(u64),
    /// Before the phase starts.
    Before,
    /// Before the phase starts, to the file with this name.
    Lost(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// EIO of anything but a sync, reads included.
    Error,
    /// ENOSPC: of whatever makes a file longer, or once, of anything but a sync.
    Full,
    /// An error of a write after half of it was written.
    Short,
    /// A failed sync.
    Sync,
    /// A power cut that tears what was not synced.
    Torn,
    /// The process is killed; what it wrote is there.
    Kill,
    ClockBack,
    ClockForward,
    /// The thread panics on its way through the disk.
    Panic,
    /// The process forks, and the child goes on.
    Fork,
    /// The process is killed, and the file is opened by another name, beside which its log does
    /// not lie.
    Name,
    /// The file, or its log, is renamed under the engine.
    TakenAway,
    /// The process is killed, and started again on a disk that is full.
    FullRestart,
}

/// The names that matter to `Fault::Name` and `Fault::TakenAway`.
pub(crate) const FILE: &str = "x.idem";
pub(crate) const LOG: &str = "x.idem-wal";
pub(crate) const ELSEWHERE: &str = "elsewhere.idem";

impl Fault {
    /// Power cuts and kills, which the process does not live through.
    pub(crate) fn is_crash(self) -> bool {
        matches!(self, Self::Torn | Self::Kill | Self::Name | Self::FullRestart)
    }

    /// Whether it can happen there.
    pub(crate) fn is_for(self, target: Target) -> bool {
        match (self, target) {
            (Self::ClockBack | Self::ClockForward, target) => target == Target::Before,
            (Self::Full | Self::Fork, Target::Before) => true,
            (Self::TakenAway, target) => matches!(target, Target::Lost(_)),
            (_, Target::Lost(_)) => false,
            (_, Target::Before) => false,
            (Self::Error, Target::Read(_)) => true,
            (_, Target::Read(_)) => false,
            (Self::Error | Self::Full, Target::Operation(_, operation)) => operation != Operation::Sync,
            (Self::Short, Target::Operation(_, operation)) => operation == Operation::Write,
            (Self::Sync, Target::Operation(_, operation)) => operation == Operation::Sync,
            (Self::Fork, Target::Operation(..)) => false,
            (
                Self::Torn | Self::Kill | Self::Panic | Self::Name | Self::FullRestart,
                Target::Operation(..),
            ) => true,
        }
    }

    /// Lets it come.
    pub(crate) fn set(self, machine: &Machine, target: Target) {
        match target {
            Target::Read(number) => machine.disk.fail_read(machine.disk.reads() + number),
            Target::Lost(name) => assert!(machine.disk.rename(Path::new(name), Path::new(ELSEWHERE))),
            Target::Before if self == Self::Fork => {}
            Target::Before if self == Self::Full => machine.disk.set_capacity(Some(machine.disk.used())),
            Target::Before => {
                let years = TEN_YEARS_MS;
                let wall = if self == Self::ClockBack { START_MS - years } else { START_MS + years };
                machine.clock.jump_wall_to_millis(wall);
            }
            Target::Operation(number, _) => {
                let at = machine.disk.operations() + number;
                match self {
                    Self::Error | Self::Sync => machine.disk.fault_at(at, DiskFault::Error),
                    Self::Full => machine.disk.fault_at(at, DiskFault::Full),
                    Self::Short => machine.disk.fault_at(at, DiskFault::Late),
                    Self::Panic => machine.disk.fault_at(at, DiskFault::Panic),
                    Self::Torn | Self::Kill | Self::Name | Self::FullRestart => machine.disk.crash_at(at),
                    Self::ClockBack | Self::ClockForward | Self::Fork | Self::TakenAway => {
                        unreachable!("not of the disk")
                    }
                }
            }
        }
    }

    /// Nothing goes wrong any more.
    pub(crate) fn lift(machine: &Machine) {
        machine.disk.mend();
        machine.disk.set_capacity(None);
        // A full disk is looked at again after a while.
        machine.clock.advance(Duration::from_secs(1));
    }
}
