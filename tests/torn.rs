//! Files that were copied while they were written, or whose pages were altered: nothing of redb's
//! panics out of a call or a drop.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that can't go on stops")]

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

use idemkv::sim::{ManualClock, SimDisk};
use idemkv::{Begin, Engine, Fingerprint, OpenError, Options, Verify};

const STORE: &str = "x.idem";
const LOG: &str = "x.idem-wal";
const PAGE: usize = 4_096;
/// Openings of altered files. `IDEMKV_TORN=n` has more of them.
const ALTERED: usize = 450;
/// Openings of files that were copied while they were written.
const COPIED: usize = 30;

fn altered() -> usize {
    std::env::var("IDEMKV_TORN").map_or(ALTERED, |altered| altered.parse().unwrap())
}

/// What became of an opening, by name.
type Met = BTreeMap<&'static str, usize>;

/// Splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 1).unwrap() % limit
    }
}

fn request() -> Fingerprint {
    Fingerprint::of("request")
}

/// The panics of redb are caught and told as damage. Their messages would fill the screen.
fn hide_panics_of_redb() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_none_or(|at| !at.file().contains("redb-")) {
            loud(panic);
        }
    }));
}

fn options(disk: &SimDisk, verify: Verify) -> Options {
    let clock = ManualClock::at_millis(1_800_000_000_000);
    Engine::options().disk(disk).clock(&clock).stepped().seed(7).verify(verify).cache_bytes(0)
}

/// Uses an engine over a file that may be damaged, and lets it go in one of three ways.
fn use_up(opened: Result<Engine, OpenError>, way: usize) -> &'static str {
    let engine = match opened {
        Ok(engine) => engine,
        Err(OpenError::Damaged(_)) => return "damaged",
        Err(_) => return "refused",
    };
    for number in 0..40 {
        let key = format!("key {number}");
        drop(engine.default_scope().get(&key));
        if let Ok(Begin::Fresh(claim)) = engine.default_scope().begin(&key, request()) {
            drop(claim.complete(vec![7; 900]));
        }
        drop(engine.default_scope().forget(&key));
    }
    drop(engine.read_tables(|_tables| ()));
    match way % 3 {
        0 => drop(engine.clone().close()),
        1 => drop(engine.checkpoint()),
        _ => {}
    }
    drop(engine);
    "used"
}

/// Runs it in a thread of its own, where a panic that comes out of a call or a drop shows.
fn survives(what: &str, opens: impl FnOnce() -> &'static str + Send) -> &'static str {
    thread::scope(|threads| {
        let name = "opens".to_owned();
        let opening = thread::Builder::new().name(name).spawn_scoped(threads, opens).unwrap();
        opening.join().unwrap_or_else(|_panic| panic!("a panic came out of the engine: {what}"))
    })
}

/// Files at several moments of one life.
fn moments() -> Vec<(Vec<u8>, Vec<u8>)> {
    let disk = SimDisk::new();
    let engine = options(&disk, Verify::Always).open(STORE).unwrap();
    let mut moments = Vec::new();
    for round in 0..6 {
        for number in 0..40 {
            if let Begin::Fresh(claim) =
                engine.default_scope().begin(format!("key {round} {number}"), request()).unwrap()
                && number % 9 != 8
            {
                claim.complete(vec![7; 900]).unwrap();
            }
        }
        let image = |path| disk.read(Path::new(path)).unwrap();
        moments.push((image(STORE), image(LOG)));
        engine.checkpoint().unwrap();
        moments.push((image(STORE), image(LOG)));
    }
    moments
}

/// Pages of noise, of zeros, of another place or of another time.
fn alter(store: &mut [u8], moments: &[(Vec<u8>, Vec<u8>)], random: &mut Random) {
    let pages = store.len() / PAGE;
    for _ in 0..=random.below(4) {
        // The header, which says where everything is, every other time.
        let page = if random.below(4) == 0 { 0 } else { random.below(pages) };
        let (from, other) = (random.below(pages) * PAGE, &moments[random.below(moments.len())].0);
        let kind = random.below(5);
        let copied = store[from..from + PAGE].to_vec();
        let start = page * PAGE + random.below(8) * 512 * usize::from(kind != 4);
        let to = &mut store[start..(page + 1) * PAGE];
        match kind {
            0 => to.iter_mut().for_each(|byte| *byte = random.below(256).to_le_bytes()[0]),
            1 => to.fill(0),
            2 => to.copy_from_slice(&copied[..to.len()]),
            3 => to[random.below(64)] ^= 1 << random.below(8),
            _ => to.iter_mut().zip(other.iter().skip(start)).for_each(|(to, from)| *to = *from),
        }
    }
}

#[test]
fn no_altered_page_makes_an_opening_a_call_or_a_drop_panic() {
    hide_panics_of_redb();
    let moments = moments();
    let mut met = Met::new();
    for seed in 0..altered() {
        let mut random = Random(seed as u64);
        let disk = SimDisk::new();
        let (mut store, log) = moments[random.below(moments.len())].clone();
        alter(&mut store, &moments, &mut random);
        disk.put(Path::new(STORE), &store).unwrap();
        disk.put(Path::new(LOG), &log).unwrap();
        let verify = if seed % 2 == 0 { Verify::UpTo(0) } else { Verify::Always };
        let found = survives(&format!("seed {seed}"), || use_up(options(&disk, verify).open(STORE), seed));
        *met.entry(found).or_default() += 1;
    }
    println!("{met:?}");
    assert!(met.contains_key("used") && met.contains_key("damaged"), "{met:?}");
}

#[test]
fn an_engine_whose_file_is_damaged_behind_its_back_does_not_panic() {
    hide_panics_of_redb();
    let moments = moments();
    for seed in 0..altered() / 3 {
        let mut random = Random(seed as u64);
        let disk = SimDisk::new();
        let (mut store, log) = moments[random.below(moments.len())].clone();
        disk.put(Path::new(STORE), &store).unwrap();
        disk.put(Path::new(LOG), &log).unwrap();
        let engine = options(&disk, Verify::UpTo(0)).open(STORE).unwrap();
        let before = disk.read(Path::new(STORE)).unwrap();
        store.clone_from(&before);
        alter(&mut store, &moments, &mut random);
        for (at, (byte, was)) in store.iter().zip(&before).enumerate() {
            for bit in (0..8).filter(|bit| (byte ^ was) >> bit & 1 == 1) {
                assert!(disk.flip(Path::new(STORE), at as u64 * 8 + bit));
            }
        }
        survives(&format!("seed {seed}"), || use_up(Ok(engine), seed));
    }
}

#[test]
fn a_file_that_is_copied_while_it_is_written_is_refused_or_opened_and_nothing_panics() {
    hide_panics_of_redb();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(STORE);
    let engine = Engine::options().log_segment_bytes(8 << 20).open(&path).unwrap();
    let mut met = Met::new();
    thread::scope(|threads| {
        let (stop, stopped) = std::sync::mpsc::sync_channel(1);
        let writes = threads.spawn(move || {
            for number in 0.. {
                if stopped.try_recv().is_ok() {
                    return;
                }
                if let Ok(Begin::Fresh(claim)) =
                    engine.default_scope().begin(format!("key {number}"), request())
                {
                    claim.complete(vec![7; 9_000]).unwrap();
                }
                if number % 20 == 19 {
                    engine.checkpoint().unwrap();
                }
            }
        });
        for copy in 0..COPIED {
            let copied = dir.path().join("copy.idem");
            let log = |path: &Path| path.with_extension("idem-wal");
            // In pieces, the later half first every other time: pages of different moments.
            copy_torn(&path, &copied, copy % 2 == 0);
            std::fs::copy(log(&path), log(&copied)).unwrap();
            let verify = if copy % 3 == 0 { Verify::Always } else { Verify::UpTo(0) };
            let opens = || use_up(Engine::options().verify(verify).open(&copied), copy);
            *met.entry(survives(&format!("copy {copy}"), opens)).or_default() += 1;
        }
        stop.send(()).unwrap();
        writes.join().unwrap();
    });
    println!("{met:?}");
}

fn copy_torn(from: &Path, to: &Path, is_backwards: bool) {
    use std::os::unix::fs::FileExt;
    let (source, target) = (std::fs::File::open(from).unwrap(), std::fs::File::create(to).unwrap());
    let len = source.metadata().unwrap().len();
    target.set_len(len).unwrap();
    let piece = 16 * PAGE as u64;
    let pieces = len.div_ceil(piece);
    for number in 0..pieces {
        let number = if is_backwards { pieces - 1 - number } else { number };
        let mut bytes = vec![0; usize::try_from(piece.min(len - number * piece)).unwrap()];
        source.read_exact_at(&mut bytes, number * piece).unwrap();
        target.write_all_at(&bytes, number * piece).unwrap();
    }
}
