//! What a long life does to the file: under steady churn, file, log and index keep to the size of
//! what is live.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use idemkv::sim::ManualClock;
use idemkv::{Begin, CommitMode, Engine, Fingerprint, Options, Status};

const TTL: Duration = Duration::from_secs(2);
const SLICE: Duration = Duration::from_millis(50);
const SLICES_A_LIFE: usize = 40;
/// How often the live set is replaced.
const LIVES: usize = 10;
const KEY_BYTES: usize = 36;
const MIB: usize = 1 << 20;

/// Ten live sets after one another end with no more than twice the bytes of the largest, file and
/// log together; and while they come and go, the file keeps its size.
#[test]
fn churn_keeps_file_and_log_within_twice_the_largest_live_set() {
    // Live sets of sizes that lie differently to the powers of two that the store likes to grow
    // by.
    for live_bytes in [64 * MIB, 90 * MIB] {
        let dir = tempfile::tempdir().unwrap();
        let mut churn = Churn::new(&dir.path().join("churn.idem"), live_bytes);
        println!("live set of {} MiB: MiB at the end of each life", live_bytes / MIB);
        println!(
            "  {:>5} {:>7} {:>7} {:>7} {:>7} {:>9} {:>9}",
            "life", "live", "file", "log", "x live", "records", "entries"
        );
        for life in 1..=LIVES {
            for _ in 0..SLICES_A_LIFE {
                churn.slice();
            }
            churn.report(life);
        }
        let entries_bound = churn.entries_max_of_first_lives();
        assert!(
            churn.engine.stats().entries <= entries_bound,
            "the index went from {entries_bound} entries to {}",
            churn.engine.stats().entries
        );
        let busy = churn.on_disk();
        // The churn ends. Where nothing is written for a quarter of a TTL, the engine gives free
        // room back.
        churn.rest();
        churn.live_records_are_there();

        let (open, peak) = (churn.on_disk(), churn.peak);
        let path = churn.path.clone();
        churn.engine.close().unwrap();
        let closed = on_disk(&path);
        println!("  idle: file {} MiB, log {} MiB", open.0 / MIB, open.1 / MIB);
        println!("  closed: file {} MiB, log {} MiB", closed.0 / MIB, closed.1 / MIB);
        // redb doubles its file when it needs more: what is live just above a power of two takes a
        // little over twice that.
        assert!(busy.0 + busy.1 <= 2 * peak + peak / 4, "{busy:?} bytes under load, for {peak}");
        assert!(
            open.0 + open.1 <= 2 * peak,
            "file {} and log {} bytes for a largest live set of {peak}",
            open.0,
            open.1
        );
        assert!(closed.0 + closed.1 <= 2 * peak, "closing made it {closed:?}, for {peak}");
    }
}

struct Churn {
    engine: Engine,
    path: PathBuf,
    clock: ManualClock,
    /// Bytes that are put in a slice.
    slice_bytes: usize,
    next: u64,
    /// The live set: slices with their records' first number, count and bytes.
    live: VecDeque<(u64, u64, usize)>,
    /// The largest live set, in bytes of keys and bodies.
    peak: usize,
    /// Entries in the index at the end of each life.
    entries: Vec<usize>,
}

impl Churn {
    fn new(path: &Path, live_bytes: usize) -> Self {
        let clock = ManualClock::at_millis(1_800_000_000_000);
        let engine = options(&clock).open(path).unwrap();
        Self {
            engine,
            path: path.to_owned(),
            clock,
            slice_bytes: live_bytes.div_ceil(SLICES_A_LIFE),
            next: 0,
            live: VecDeque::new(),
            peak: 0,
            entries: Vec::new(),
        }
    }

    /// One slice of time: the oldest slice of the live set expires, and a new one takes its place.
    fn slice(&mut self) {
        let (first, mut bytes) = (self.next, 0);
        while bytes < self.slice_bytes {
            let body = body(self.next);
            match self.engine.default_scope().begin(key(self.next), Fingerprint::of("request")).unwrap() {
                Begin::Fresh(claim) => drop(claim.complete(&body).unwrap()),
                other => panic!("a new key was {other:?}"),
            }
            bytes += KEY_BYTES + body.len();
            self.next += 1;
        }
        self.live.push_back((first, self.next - first, bytes));
        if self.live.len() > SLICES_A_LIFE {
            self.live.pop_front();
        }
        self.peak = self.peak.max(self.live_bytes());
        self.clock.advance(SLICE);
        self.engine.step();
    }

    /// A quarter of a TTL goes by.
    fn rest(&mut self) {
        self.engine.step();
        for _ in 0..SLICES_A_LIFE / 4 {
            self.live.pop_front();
            self.clock.advance(SLICE);
            self.engine.step();
        }
        self.engine.step();
    }

    fn live_bytes(&self) -> usize {
        self.live.iter().map(|(_, _, bytes)| bytes).sum()
    }

    fn live_records(&self) -> u64 {
        self.live.iter().map(|(_, records, _)| records).sum()
    }

    fn on_disk(&self) -> (usize, usize) {
        on_disk(&self.path)
    }

    #[expect(clippy::cast_precision_loss, reason = "to look at")]
    fn report(&mut self, life: usize) {
        let (file, log) = self.on_disk();
        let live = self.live_bytes();
        let entries = self.engine.stats().entries;
        self.entries.push(entries);
        println!(
            "  {life:>5} {:>7} {:>7} {:>7} {:>7.2} {:>9} {entries:>9}",
            live / MIB,
            file / MIB,
            log / MIB,
            (file + log) as f64 / self.peak as f64,
            self.live_records(),
        );
    }

    /// What later lives are held to: a tenth more than the second life ended with, which the
    /// sweeper's rhythm explains.
    fn entries_max_of_first_lives(&self) -> usize {
        let first = self.entries.iter().take(2).max().copied().unwrap_or_default();
        first + first / 10
    }

    /// The youngest and the oldest records that can't have expired are there with their bodies;
    /// older ones are not.
    fn live_records_are_there(&self) {
        // The clock has moved on by a slice, so the oldest slice of the live set has just expired.
        let (gone, _, _) = self.live.front().unwrap();
        assert!(matches!(self.engine.default_scope().get(key(*gone)).unwrap(), Status::Vacant));
        for (first, count, _) in self.live.iter().skip(1) {
            for number in [*first, *first + *count - 1] {
                match self.engine.default_scope().get(key(number)).unwrap() {
                    Status::Done(record) => assert_eq!(record.body(), body(number)),
                    other => panic!("record {number} was {other:?}"),
                }
            }
        }
    }
}

/// A log that is small beside the live set, as it would be in earnest.
fn options(clock: &ManualClock) -> Options {
    Engine::options()
        .ttl(TTL)
        .clock(clock)
        .stepped()
        .commit_mode(CommitMode::Buffered)
        .cache_bytes(4 * MIB)
        .max_body_bytes(64 << 10)
        .batch_bytes(64 << 10)
        .log_segment_bytes(MIB as u64)
        .log_bytes(8 * MIB as u64)
}

/// Bytes of the file and of its log.
fn on_disk(path: &Path) -> (usize, usize) {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let len = |path: &Path| usize::try_from(fs::metadata(path).unwrap().len()).unwrap();
    (len(path), len(Path::new(&log)))
}

fn key(number: u64) -> String {
    format!("{number:0KEY_BYTES$}")
}

/// 1 to 4 KiB, each byte different from its neighbours'.
fn body(number: u64) -> Vec<u8> {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let len = 1_024 + spread % (3 * 1_024 + 1);
    (number..number + len).map(|byte| byte.to_le_bytes()[0]).collect()
}
