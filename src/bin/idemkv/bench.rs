//! `idemkv bench`: this disk and the engine, side by side.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use idemkv::{Begin, Engine, Fingerprint};

use crate::answer::{Answer, Trouble};
use crate::format::table;
use crate::{opening, spans};

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// A folder on the disk that is measured; files are made there and removed
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// For how long each measurement runs
    #[arg(long, value_parser = spans::parse, default_value = "2s", value_name = "SPAN")]
    span: Duration,
    /// Threads that claim at once, in the last measurement
    #[arg(long, default_value_t = 16)]
    threads: usize,
}

/// Bytes of a result.
const BODY: [u8; 256] = [b'x'; 256];

/// How often something was done in how long.
#[derive(Clone, Copy, Debug)]
struct Rate {
    times: u64,
    took: Duration,
}

#[expect(clippy::disallowed_methods, reason = "it measures, and decides nothing")]
fn now() -> Instant {
    Instant::now()
}

fn measure(span: Duration, mut step: impl FnMut(u64) -> Result<(), Trouble>) -> Result<Rate, Trouble> {
    let start = now();
    let mut times = 0;
    while start.elapsed() < span {
        step(times)?;
        times += 1;
    }
    Ok(Rate { times, took: start.elapsed() })
}

impl Bench {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        let folder = self.folder.join("idemkv-bench");
        fs::create_dir(&folder).map_err(|error| {
            Trouble::refused(format_args!("{}: {error}; if a bench was killed, remove it", folder.display()))
        })?;
        let measured = self.measure_all(&folder);
        fs::remove_dir_all(&folder)?;
        let mut rows = table(&["what", "a second", "each takes"]);
        for (what, rate) in measured? {
            let nanos = rate.took.as_nanos() / u128::from(rate.times.max(1));
            let each = if nanos < 10_000 { format!("{nanos} ns") } else { format!("{} us", nanos / 1_000) };
            let rate = u128::from(rate.times) * 1_000_000 / rate.took.as_micros().max(1);
            rows.add_row([what, rate.to_string(), each]);
        }
        writeln!(out, "{rows}")?;
        writeln!(out, "A claim and its result are two syncs; claims at the same time share them.")?;
        Ok(Answer::Fine)
    }

    fn measure_all(&self, folder: &Path) -> Result<Vec<(String, Rate)>, Trouble> {
        let mut measured = vec![("this disk: 512 bytes written and synced".to_owned(), self.disk(folder)?)];
        let engine = Engine::open(folder.join("bench.idem"))?;
        let single = measure(self.span, |number| claim(&engine, 0, number))?;
        measured.push(("engine, 1 thread: claim and result".to_owned(), single));
        let key = key_of(0, 0);
        let replay = measure(self.span, |_| {
            let begun =
                engine.default_scope().begin(&key, Fingerprint::of(&key)).map_err(Trouble::refused)?;
            if matches!(begun, Begin::Done(_)) {
                Ok(())
            } else {
                Err(Trouble::refused("a result was not replayed"))
            }
        })?;
        measured.push(("engine, 1 thread: replay from memory".to_owned(), replay));
        let many = self.many(&engine)?;
        measured.push((format!("engine, {} threads: claim and result", self.threads), many));
        opening::close(engine)?;
        Ok(measured)
    }

    /// The disk as the log uses it: over bytes that are there already.
    fn disk(&self, folder: &Path) -> Result<Rate, Trouble> {
        const SECTORS: u64 = 8_192;
        let mut file = File::create_new(folder.join("disk"))?;
        file.write_all(&vec![0; 512 * 8_192])?;
        file.sync_all()?;
        measure(self.span, |number| {
            file.seek(SeekFrom::Start(number % SECTORS * 512))?;
            file.write_all(&[7; 512])?;
            Ok(file.sync_data()?)
        })
    }

    fn many(&self, engine: &Engine) -> Result<Rate, Trouble> {
        thread::scope(|threads| {
            let start = now();
            let running: Vec<_> = (1..=self.threads as u64)
                .map(|thread| {
                    threads.spawn(move || measure(self.span, |number| claim(engine, thread, number)))
                })
                .collect();
            let mut times = 0;
            for thread in running {
                let rate = thread.join().map_err(|_panic| Trouble::refused("a thread panicked"))?;
                times += rate?.times;
            }
            Ok(Rate { times, took: start.elapsed() })
        })
    }
}

fn key_of(thread: u64, number: u64) -> String {
    format!("bench {thread} {number}")
}

fn claim(engine: &Engine, thread: u64, number: u64) -> Result<(), Trouble> {
    let key = key_of(thread, number);
    match engine.default_scope().begin(&key, Fingerprint::of(&key)).map_err(Trouble::refused)? {
        Begin::Fresh(claim) => claim.complete(BODY).map(drop).map_err(Trouble::refused),
        Begin::InFlight(_) | Begin::Done(_) => Err(Trouble::refused("a key was there already")),
    }
}
