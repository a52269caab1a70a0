//! What an engine does when it goes wrong.

use std::time::Duration;

use idemkv::sim::CrashKind;
use idemkv::{Begin, Claim, Completion, Engine, OpenError, Options};

use crate::common::{Machine, TTL, default_scope, fresh, request};
use crate::fault::{FILE, Target};
use crate::kind;

/// A key whose claim was dropped.
pub(crate) const INTERRUPTED: &str = "interrupted";
/// Results that are on disk alone, for memory does not hold them, and others that are in the log
/// and in memory.
const ON_DISK: u8 = 24;
const IN_MEMORY: u8 = 3;
const SHORT_TTL: Duration = Duration::from_secs(60);

/// The rows of the matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Phase {
    Open,
    Intent,
    Commit,
    Checkpoint,
    Recycling,
    Expiry,
    Close,
}

/// An engine that is about to do it.
pub(crate) struct Prepared {
    pub(crate) machine: Machine,
    pub(crate) engine: Option<Engine>,
    /// A claim that is out.
    pub(crate) held: Option<Claim>,
    pub(crate) is_closed: bool,
}

/// Every result that was acknowledged and has not expired.
pub(crate) fn acknowledged() -> impl Iterator<Item = (String, Vec<u8>)> {
    let on_disk = (0..ON_DISK).map(|n| (format!("disk {n}"), vec![n; 4_000]));
    on_disk.chain((0..IN_MEMORY).map(|n| (format!("memory {n}"), vec![n; 10])))
}

fn options(machine: &Machine) -> Options {
    // Kept for longer than the clock may jump between two openings.
    let options = machine.options().ttl(24 * TTL).max_clock_jump(TTL);
    options.cache_bytes(8 << 10).shards(2).log_bytes(256 << 10)
}

pub(crate) fn open(machine: &Machine) -> Result<Engine, OpenError> {
    open_as(machine, FILE)
}

pub(crate) fn open_as(machine: &Machine, name: &str) -> Result<Engine, OpenError> {
    options(machine).open(name)
}

fn begin(engine: &Engine, name: &str) -> Result<Claim, String> {
    match default_scope(engine).begin(name, request()) {
        Ok(Begin::Fresh(claim)) => Ok(claim),
        Ok(other) => panic!("{name} should be fresh, is {other:?}"),
        Err(error) => Err(kind(&error)),
    }
}

fn complete(engine: &Engine, name: &str, body: &[u8]) {
    begin(engine, name).unwrap().complete(body).unwrap();
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Intent => "intent",
            Self::Commit => "group commit",
            Self::Checkpoint => "checkpoint",
            Self::Recycling => "log recycling and growth",
            Self::Expiry => "expiry",
            Self::Close => "close",
        }
    }

    pub(crate) fn prepare(self) -> Prepared {
        let machine = Machine::default();
        let engine = open(&machine).unwrap();
        let scope = default_scope(&engine);
        for n in 0..6 {
            let short = Completion::new().ttl(SHORT_TTL).tombstone_ttl(SHORT_TTL);
            fresh(&scope, &format!("short {n}")).complete_with(vec![n; 4_000], short).unwrap();
        }
        for (name, body) in acknowledged().take(usize::from(ON_DISK)) {
            complete(&engine, &name, &body);
        }
        engine.checkpoint().unwrap();
        for (name, body) in acknowledged().skip(usize::from(ON_DISK)) {
            complete(&engine, &name, &body);
        }
        drop(fresh(&scope, INTERRUPTED));
        let held = fresh(&scope, "held");
        if matches!(self, Self::Expiry) {
            machine.clock.advance(SHORT_TTL);
        }
        let mut prepared = Prepared { machine, engine: Some(engine), held: Some(held), is_closed: false };
        if matches!(self, Self::Open) {
            // Not closed cleanly, so that there is a log to replay.
            prepared.held = None;
            prepared.engine = None;
            prepared.machine.disk = prepared.machine.disk.image(CrashKind::KeepAll);
            // Within a boot the wall clock would not matter.
            prepared.machine.clock.reboot();
        }
        prepared
    }

    /// Does it. An error is told by its kind.
    pub(crate) fn act(self, prepared: &mut Prepared) -> Result<(), String> {
        if matches!(self, Self::Open) {
            prepared.engine = Some(open(&prepared.machine).map_err(|error| kind(&error))?);
            return Ok(());
        }
        let engine = prepared.engine.as_ref().expect("open from the start");
        match self {
            Self::Open => unreachable!(),
            Self::Intent => begin(engine, "new").map(drop),
            Self::Commit => {
                let held = prepared.held.take().expect("out from the start");
                held.complete(vec![7; 4_000]).map(|_| ()).map_err(|error| kind(error.reason()))
            }
            Self::Checkpoint => engine.checkpoint().map_err(|error| kind(&error)),
            Self::Recycling => {
                for round in 0..2 {
                    let names = (0..24).map(|n| format!("recycling {round} {n}"));
                    let claims: Result<Vec<Claim>, String> = names.map(|name| begin(engine, &name)).collect();
                    engine.step();
                    for claim in claims? {
                        claim.complete([1; 4_000]).map_err(|error| kind(error.reason()))?;
                    }
                }
                Ok(())
            }
            Self::Expiry => {
                for _ in 0..3 {
                    engine.step();
                    prepared.machine.clock.advance(Duration::from_secs(61));
                }
                Ok(())
            }
            Self::Close => {
                prepared.is_closed = true;
                engine.clone().close().map(|_| ()).map_err(|error| kind(&error))
            }
        }
    }

    /// Everything that this does on the disk, in the order of each kind.
    pub(crate) fn targets(self) -> Vec<Target> {
        let mut prepared = self.prepare();
        let disk = prepared.machine.disk.clone();
        let (first, first_read) = (disk.operations(), disk.reads());
        disk.record();
        self.act(&mut prepared).expect("nothing goes wrong");
        let moments = disk.take_moments();
        let reads = (0..disk.reads() - first_read).map(Target::Read);
        moments
            .iter()
            .map(|moment| Target::Operation(moment.number() - first, moment.operation()))
            .chain(reads)
            .collect()
    }
}
