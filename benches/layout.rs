//! Measures the costs that decide the on-disk layout: a log in front that takes
//! one append and one `fdatasync` per group, and redb behind it with few large
//! rows.
//!
//! - `commit`: how long a group of entries takes to become durable, in a raw
//!   file (zeroed, sparse or growing) and in redb (three commit modes).
//! - `rows`: entries a second into redb as a row per entry or as blocks, the
//!   bytes the file then takes, and the largest value that still fits a page.
//! - `open`: how long a 512 MB file takes to open after the process that wrote
//!   it was killed, and to read an index of 26 bytes an entry.
//!
//! Run everything, or only the sections named:
//!
//! ```text
//! cargo bench --bench layout
//! cargo bench --bench layout -- commit
//! LAYOUT_DIR=/some/disk cargo bench --bench layout -- rows open
//! ```
//!
//! Files go into a fresh directory under `LAYOUT_DIR` (by default the system's
//! temporary directory) which is removed at the end. It needs about 1.2 GB and
//! has to be on the kind of disk the answer is for: on a memory file system
//! every `fdatasync` is free.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::single_match_else,
    reason = "a bench prints, measures time, and may panic"
)]

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, io, process};

use redb::backends::FileBackend;
use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// An entry: a digest of 16 bytes and what is stored under it.
const ENTRY: usize = 200;
const DIGEST: usize = 16;
const KIB: usize = 1024;

/// What a leaf page spends besides the value when it holds one row with a key
/// of two `u64`: 4 bytes of page header, 4 for where the value ends and 16 for
/// the key. The `page fit` table measures it.
const ROW_OVERHEAD: usize = 24;

const BLOCKS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("blocks");
const BY_DIGEST: TableDefinition<[u8; DIGEST], &[u8]> = TableDefinition::new("by_digest");
const INDEX: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("index");

fn main() {
    let outcome = match env::var("LAYOUT_CHILD") {
        Ok(mode) => run_child(&mode),
        Err(_) => run_sections(),
    };
    if let Err(error) = outcome {
        eprintln!("layout: {error}");
        process::exit(1);
    }
}

fn run_sections() -> Result<()> {
    // cargo passes `--bench`; flags are not section names.
    let wanted: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let known = ["commit", "rows", "open"];
    if let Some(other) = wanted.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("no section {other}; there are {}", known.join(", ")).into());
    }
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|arg| arg == name);

    let scratch = Scratch::new()?;
    if runs("commit") {
        commit_section(&scratch.path)?;
    }
    if runs("rows") {
        rows_section(&scratch.path)?;
        page_fit_section(&scratch.path)?;
    }
    if runs("open") {
        open_section(&scratch.path)?;
    }
    Ok(())
}

// ---------------------------------------------------------------- commit ---

const GROUPS: [usize; 3] = [1, 64, 1024];
const COMMIT_ROUNDS: usize = 200;
const COMMIT_BLOCK: usize = 16 * KIB - ROW_OVERHEAD;
/// Room for every group of every round, the uncounted first one included.
const LOG_BYTES: usize = (COMMIT_ROUNDS + 1) * (GROUPS[0] + GROUPS[1] + GROUPS[2]) * ENTRY;

/// How a redb transaction is made durable.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    OnePhase,
    TwoPhase,
    QuickRepair,
}

impl Mode {
    fn apply(self, txn: &mut WriteTransaction) {
        // `Durability::Immediate` is the default of a transaction.
        match self {
            Mode::OnePhase => {}
            Mode::TwoPhase => txn.set_two_phase_commit(true),
            // Implies the two phases.
            Mode::QuickRepair => txn.set_quick_repair(true),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Mode::OnePhase => "one-phase",
            Mode::TwoPhase => "two-phase",
            Mode::QuickRepair => "quick repair",
        }
    }

    fn from_name(name: &str) -> Option<Mode> {
        [Mode::OnePhase, Mode::TwoPhase, Mode::QuickRepair].into_iter().find(|mode| mode.name() == name)
    }
}

/// Something a group of entries can be made durable in.
enum Target {
    Log(File),
    Redb(Database, Mode, u64),
}

impl Target {
    fn commit(&mut self, group: &[u8]) -> Result<()> {
        match self {
            Target::Log(file) => {
                file.write_all(group)?;
                file.sync_data()?;
            }
            Target::Redb(db, mode, next) => {
                let mut txn = db.begin_write()?;
                mode.apply(&mut txn);
                insert_blocks(&txn, group, COMMIT_BLOCK, next)?;
                txn.commit()?;
            }
        }
        Ok(())
    }
}

fn commit_section(dir: &Path) -> Result<()> {
    let redb = |mode: Mode| -> Result<(String, Target)> {
        let name = format!("redb, {}", mode.name());
        let path = dir.join(format!("commit-{}.redb", mode.name().replace(' ', "-")));
        Ok((name, Target::Redb(Builder::new().create(path)?, mode, 0)))
    };
    let mut targets = [
        ("log, zeros written".to_string(), zeroed_log(dir)?),
        ("log, growing".to_string(), growing_log(dir)?),
        ("log, set_len only".to_string(), sparse_log(dir)?),
        redb(Mode::OnePhase)?,
        redb(Mode::TwoPhase)?,
        redb(Mode::QuickRepair)?,
    ];

    let mut times = vec![vec![Vec::new(); GROUPS.len()]; targets.len()];
    let mut random = Random::new();
    // One round more than is counted: the first finds everything cold.
    for round in 0..=COMMIT_ROUNDS {
        for (g, entries) in GROUPS.into_iter().enumerate() {
            let group = random.bytes(entries * ENTRY);
            for turn in 0..targets.len() {
                // Another one goes first after a pause in each round, so that
                // a drift of the disk is spread over all of them.
                let t = (turn + round) % targets.len();
                let started = Instant::now();
                targets[t].1.commit(&group)?;
                if round > 0 {
                    times[t][g].push(started.elapsed());
                }
            }
        }
    }

    println!("commit: median ms of one durable group, {COMMIT_ROUNDS} rounds, interleaved");
    println!("        (in brackets: times the first row; {ENTRY} bytes an entry)");
    print!("  {:<20}", "");
    for entries in GROUPS {
        print!(" {:>20}", format!("{entries} entries"));
    }
    println!();
    let medians: Vec<Vec<f64>> = times
        .iter_mut()
        .map(|by_group| by_group.iter_mut().map(|all| millis(median(all))).collect())
        .collect();
    for (t, (name, _)) in targets.iter().enumerate() {
        print!("  {name:<20}");
        for (own, first) in medians[t].iter().zip(&medians[0]) {
            print!(" {:>20}", format!("{own:.3} ({:.2}x)", own / first));
        }
        println!();
    }
    println!();
    Ok(())
}

/// A file whose blocks are allocated and written, so that an append changes
/// nothing but data and `fdatasync` has no metadata to journal.
fn zeroed_log(dir: &Path) -> Result<Target> {
    let mut file = File::create(dir.join("zeroed.log"))?;
    file.write_all(&vec![0; LOG_BYTES])?;
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    Ok(Target::Log(file))
}

fn growing_log(dir: &Path) -> Result<Target> {
    let file = File::create(dir.join("growing.log"))?;
    file.sync_all()?;
    Ok(Target::Log(file))
}

/// A file of full length without blocks: each append still allocates.
fn sparse_log(dir: &Path) -> Result<Target> {
    let file = File::create(dir.join("sparse.log"))?;
    file.set_len(LOG_BYTES as u64)?;
    file.sync_all()?;
    Ok(Target::Log(file))
}

/// Cuts `entries` into rows of at most `block` bytes, whole entries each, under
/// ascending keys.
fn insert_blocks(txn: &WriteTransaction, entries: &[u8], block: usize, next: &mut u64) -> Result<()> {
    let mut table = txn.open_table(BLOCKS)?;
    for row in entries.chunks(whole_entries(block)) {
        table.insert((*next / 100, *next), row)?;
        *next += 1;
    }
    Ok(())
}

/// The most bytes of whole entries that fit into `block`.
fn whole_entries(block: usize) -> usize {
    block / ENTRY * ENTRY
}

// ------------------------------------------------------------------ rows ---

const ROWS_TOTAL: usize = 200_000;
const ROWS_GROUPS: [usize; 2] = [1_000, 10_000];
const ROWS_ROUNDS: usize = 5;

#[derive(Clone, Copy)]
enum Layout {
    PerDigest,
    PerEntry,
    Block(usize),
}

impl Layout {
    fn name(self) -> String {
        match self {
            Layout::PerDigest => "row an entry, digest".into(),
            Layout::PerEntry => "row an entry, in order".into(),
            Layout::Block(size) => format!("blocks of {} KiB", size / KIB),
        }
    }

    fn insert(self, txn: &WriteTransaction, entries: &[u8], next: &mut u64) -> Result<()> {
        match self {
            Layout::PerDigest => {
                let mut table = txn.open_table(BY_DIGEST)?;
                for entry in entries.chunks(ENTRY) {
                    let (digest, rest) = entry.split_at(DIGEST);
                    let digest: [u8; DIGEST] = digest.try_into()?;
                    table.insert(digest, rest)?;
                }
                Ok(())
            }
            Layout::PerEntry => {
                let mut table = txn.open_table(BLOCKS)?;
                for entry in entries.chunks(ENTRY) {
                    table.insert((*next / 100, *next), entry)?;
                    *next += 1;
                }
                Ok(())
            }
            Layout::Block(size) => insert_blocks(txn, entries, size - ROW_OVERHEAD, next),
        }
    }
}

/// What one pass over one layout showed.
struct Filled {
    per_second: f64,
    written: f64,
    file: f64,
    allocated: f64,
}

fn rows_section(dir: &Path) -> Result<()> {
    let layouts = [
        Layout::PerDigest,
        Layout::PerEntry,
        Layout::Block(16 * KIB),
        Layout::Block(64 * KIB),
        Layout::Block(256 * KIB),
    ];
    println!("rows: {ROWS_TOTAL} entries of {ENTRY} bytes into an empty redb, quick repair,");
    println!("      medians of {ROWS_ROUNDS} passes; bytes are per byte of entries");
    println!(
        "  {:<24} {:>10} {:>12} {:>9} {:>9} {:>9} {:>9}",
        "", "per commit", "entries/s", "ratio", "written", "file", "allocated"
    );
    for group in ROWS_GROUPS {
        let mut passes: Vec<Vec<Filled>> = layouts.iter().map(|_| Vec::new()).collect();
        for round in 0..ROWS_ROUNDS {
            for turn in 0..layouts.len() {
                let l = (turn + round) % layouts.len();
                passes[l].push(fill(&dir.join("rows.redb"), layouts[l], group)?);
            }
        }
        let mut first = None;
        for (layout, passes) in layouts.iter().zip(&passes) {
            let middle = |of: fn(&Filled) -> f64| median_f64(passes.iter().map(of).collect());
            let speed = middle(|pass| pass.per_second);
            let first = *first.get_or_insert(speed);
            println!(
                "  {:<24} {group:>10} {speed:>12.0} {:>8.2}x {:>9.2} {:>9.2} {:>9.2}",
                layout.name(),
                speed / first,
                middle(|pass| pass.written),
                middle(|pass| pass.file),
                middle(|pass| pass.allocated),
            );
        }
    }
    println!();
    Ok(())
}

/// Writes `ROWS_TOTAL` entries in commits of `group`, as a checkpoint would.
fn fill(path: &Path, layout: Layout, group: usize) -> Result<Filled> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let written = Arc::new(AtomicU64::new(0));
    let backend = Counting { inner: FileBackend::new(file)?, written: Arc::clone(&written) };
    let db = Builder::new().create_with_backend(backend)?;
    let mut random = Random::new();
    let mut next = 0;
    let mut spent = Duration::ZERO;
    for _ in 0..ROWS_TOTAL / group {
        let entries = random.bytes(group * ENTRY);
        let started = Instant::now();
        let mut txn = db.begin_write()?;
        Mode::QuickRepair.apply(&mut txn);
        layout.insert(&txn, &entries, &mut next)?;
        txn.commit()?;
        spent += started.elapsed();
    }

    let payload = (ROWS_TOTAL * ENTRY) as f64;
    let written = written.load(Ordering::Relaxed) as f64;
    let (allocated, page) = allocated(&db)?;
    let file = fs::metadata(path)?.len() as f64;
    drop(db);
    fs::remove_file(path)?;
    Ok(Filled {
        per_second: ROWS_TOTAL as f64 / spent.as_secs_f64(),
        written: written / payload,
        file: file / payload,
        allocated: (allocated * page) as f64 / payload,
    })
}

/// Pages in use and their size.
fn allocated(db: &Database) -> Result<(u64, u64)> {
    let txn = db.begin_write()?;
    let stats = txn.stats()?;
    let found = (stats.allocated_pages(), stats.page_size() as u64);
    txn.abort()?;
    Ok(found)
}

/// Counts the bytes redb writes: unlike a time, they are the same every run.
///
/// The lock methods keep their default of being unsupported, which redb accepts:
/// nobody else opens this file.
#[derive(Debug)]
struct Counting {
    inner: FileBackend,
    written: Arc<AtomicU64>,
}

impl StorageBackend for Counting {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.inner.write(offset, data)
    }
}

// -------------------------------------------------------------- page fit ---

const FIT_ROWS: usize = 200;
const FIT_SHORT: [usize; 9] = [0, 16, 32, 48, 64, 96, 128, 160, 256];

/// A page is a power of two: a value a little too long takes twice the space.
/// Two values around the computed limit show that it is exact.
fn page_fit_section(dir: &Path) -> Result<()> {
    println!("page fit: bytes a row of 65536-N bytes takes, key (u64, u64), {FIT_ROWS} rows");
    println!("          (page: a row's share of leaves and branches; allocated: of all pages in use)");
    println!("  {:>5} {:>12} {:>12} {:>12}", "N", "page", "allocated", "file");
    let mut shorts = FIT_SHORT.to_vec();
    shorts.extend([ROW_OVERHEAD - 1, ROW_OVERHEAD]);
    shorts.sort_unstable();
    let mut smallest = None;
    for short in shorts {
        let path = dir.join("fit.redb");
        let db = Builder::new().create(&path)?;
        let empty = allocated(&db)?.0;
        let value = vec![7; 64 * KIB - short];
        let mut txn = db.begin_write()?;
        Mode::QuickRepair.apply(&mut txn);
        {
            let mut table = txn.open_table(BLOCKS)?;
            for row in 0..FIT_ROWS as u64 {
                table.insert((row / 100, row), value.as_slice())?;
            }
        }
        txn.commit()?;

        let page = bytes_in_leaves(&db)? / FIT_ROWS as u64;
        let (pages, page_size) = allocated(&db)?;
        let allocated = (pages - empty) * page_size / FIT_ROWS as u64;
        let file = fs::metadata(&path)?.len() / FIT_ROWS as u64;
        println!("  {short:>5} {page:>12} {allocated:>12} {file:>12}");
        if page < 65 * KIB as u64 && smallest.is_none() {
            smallest = Some(short);
        }
        drop(db);
        fs::remove_file(&path)?;
    }
    match smallest {
        Some(short) => println!("  smallest N with a row in 64 KiB: {short}"),
        None => println!("  no N has a row in 64 KiB"),
    }
    println!();
    Ok(())
}

/// The size of the pages under `BLOCKS`, which is what is stored in them, what
/// they spend on it and what stays empty.
fn bytes_in_leaves(db: &Database) -> Result<u64> {
    let txn = db.begin_read()?;
    let table = txn.open_table(BLOCKS)?;
    let stats = redb::ReadableTableMetadata::stats(&table)?;
    Ok(stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes())
}

// ------------------------------------------------------------------ open ---

const OPEN_BYTES: usize = 512 * KIB * KIB;
const OPEN_COMMIT: usize = 16 * KIB * KIB;
const OPEN_ROUNDS: usize = 5;
const OPEN_CACHE: usize = 64 * KIB * KIB;
const INDEX_ENTRY: usize = 26;

fn open_section(dir: &Path) -> Result<()> {
    println!("open: median ms after the writer was killed, {} MiB of entries,", OPEN_BYTES / KIB / KIB);
    println!("      {OPEN_ROUNDS} rounds, file in the page cache; last commit as named");
    println!(
        "  {:<10} {:<14} {:>10} {:>12} {:>10} {:>14}",
        "blocks", "last commit", "open", "index scan", "index MB", "index entries"
    );
    for block in [16 * KIB, 64 * KIB] {
        let path = dir.join("open.redb");
        in_child("fill", &path, block)?;
        for mode in [Mode::QuickRepair, Mode::TwoPhase, Mode::OnePhase] {
            let (mut opens, mut scans) = (Vec::new(), Vec::new());
            let mut bytes = 0;
            for _ in 0..OPEN_ROUNDS {
                // What counts is the last commit before the kill, so one more
                // commit turns the file written once into every case.
                in_child(mode.name(), &path, block)?;
                let started = Instant::now();
                let db = open_cached(&path)?;
                opens.push(started.elapsed());
                let started = Instant::now();
                bytes = scan_index(&db)?;
                scans.push(started.elapsed());
            }
            println!(
                "  {:<10} {:<14} {:>10.1} {:>12.1} {:>10.1} {:>14}",
                format!("{} KiB", block / KIB),
                mode.name(),
                millis(median(&mut opens)),
                millis(median(&mut scans)),
                bytes as f64 / 1e6,
                bytes / INDEX_ENTRY as u64,
            );
        }
        fs::remove_file(&path)?;
    }
    println!();
    Ok(())
}

/// A cache much smaller than the file, so that what is timed does not depend on
/// the default.
fn open_cached(path: &Path) -> Result<Database> {
    Ok(Builder::new().set_cache_size(OPEN_CACHE).open(path)?)
}

fn scan_index(db: &Database) -> Result<u64> {
    let txn = db.begin_read()?;
    let table = txn.open_table(INDEX)?;
    let mut bytes = 0;
    for row in table.iter()? {
        bytes += row?.1.value().len() as u64;
    }
    Ok(bytes)
}

/// Runs this program again to change the file and be killed over it. Dropping a
/// `Database` in this process would close it cleanly, and that is not the case
/// measured.
fn in_child(mode: &str, path: &Path, block: usize) -> Result<()> {
    let output = Command::new(env::current_exe()?)
        .env("LAYOUT_CHILD", mode)
        .env("LAYOUT_FILE", path)
        .env("LAYOUT_BLOCK", block.to_string())
        .output()?;
    // The child says so once all is durable and never returns normally.
    if output.stdout.ends_with(b"durable\n") && !output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("child {mode}: {}: {said}", output.status).into())
}

fn run_child(mode: &str) -> Result<()> {
    let path = PathBuf::from(env::var_os("LAYOUT_FILE").ok_or("no LAYOUT_FILE")?);
    let block: usize = env::var("LAYOUT_BLOCK")?.parse()?;
    // The database lives until the abort below, so that nothing closes it.
    let db;
    match Mode::from_name(mode) {
        Some(mode) => {
            db = open_cached(&path)?;
            add_blocks(&db, mode, block, u64::MAX / 2, block)?;
        }
        None => {
            db = Builder::new().create(&path)?;
            for commit in 0..OPEN_BYTES / OPEN_COMMIT {
                add_blocks(&db, Mode::TwoPhase, block, commit as u64, OPEN_COMMIT)?;
            }
        }
    }
    println!("durable");
    io::stdout().flush()?;
    process::abort()
}

/// One commit of `bytes` in blocks, each with its row in the index.
fn add_blocks(db: &Database, mode: Mode, block: usize, time: u64, bytes: usize) -> Result<()> {
    let value = Random::new().bytes(whole_entries(block - ROW_OVERHEAD));
    let index = vec![7; value.len() / ENTRY * INDEX_ENTRY];
    let mut txn = db.begin_write()?;
    mode.apply(&mut txn);
    {
        let mut blocks = txn.open_table(BLOCKS)?;
        let mut indexes = txn.open_table(INDEX)?;
        for seq in 0..(bytes / block) as u64 {
            blocks.insert((time, seq), value.as_slice())?;
            indexes.insert((time, seq), index.as_slice())?;
        }
    }
    txn.commit()?;
    Ok(())
}

// --------------------------------------------------------------- helpers ---

/// A directory of our own, removed when dropped.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> Result<Scratch> {
        let base = env::var_os("LAYOUT_DIR").map_or_else(env::temp_dir, PathBuf::from);
        let path = base.join(format!("layout-{}", process::id()));
        fs::create_dir_all(&path)?;
        Ok(Scratch { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nobody is left to tell; the files are only garbage.
        // Best effort: a temporary directory that stays is no reason to fail.
        fs::remove_dir_all(&self.path).unwrap_or_default();
    }
}

/// Bytes that neither compress nor repeat, the same in every run.
struct Random(u64);

impl Random {
    fn new() -> Random {
        Random(0x1dea)
    }

    // splitmix64
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn median_f64(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
