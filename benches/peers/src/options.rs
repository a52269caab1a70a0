//! What a comparison is told.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::fill::Bodies;

const HELP: &str = "\
NUMBERS               sizes to run: lifecycles in flight for `durable`, keys for all others
--only NAMES          peers to run, with commas between; none: idemkv alone
--skip NAMES          peers to leave out
--rounds N            measurements of each, taken in turns
--millis N            how long one lasts
--body BYTES          length of bodies, where it is not 80 to 200 (`open`, `stored`, `churn`, `memory` beside bodies)
--threads NUMBERS     threads, with commas between (`lookup`)
--tmpfs               files in memory, where a sync is free (`durable`)";

#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) sizes: Vec<usize>,
    threads: Vec<usize>,
    pub(crate) tmpfs: bool,
    pub(crate) bodies: Bodies,
    only: Option<Vec<String>>,
    skip: Vec<String>,
    rounds: Option<usize>,
    millis: Option<u64>,
}

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value\n{HELP}"));
            match argument.as_str() {
                "--only" => options.only = Some(names(&value()?)),
                "--skip" => options.skip = names(&value()?),
                "--rounds" => options.rounds = Some(number(&value()?)?),
                "--millis" => options.millis = Some(number(&value()?)?),
                "--threads" => {
                    options.threads =
                        names(&value()?).iter().map(|text| number(text)).collect::<Result<_, _>>()?;
                }
                "--body" => options.bodies.bytes = Some(number::<usize>(&value()?)?.min(Bodies::MAX)),
                "--tmpfs" => options.tmpfs = true,
                "--help" => return Err(HELP.to_owned()),
                size => options.sizes.push(number(size)?),
            }
        }
        Ok(options)
    }

    pub(crate) fn sizes_or(&self, default: &[usize]) -> Vec<usize> {
        if self.sizes.is_empty() { default.to_vec() } else { self.sizes.clone() }
    }

    pub(crate) fn threads_or(&self, default: &[usize]) -> Vec<usize> {
        if self.threads.is_empty() { default.to_vec() } else { self.threads.clone() }
    }

    pub(crate) fn rounds_or(&self, default: usize) -> usize {
        self.rounds.unwrap_or(default)
    }

    pub(crate) fn time_or(&self, default: Duration) -> Duration {
        self.millis.map_or(default, Duration::from_millis)
    }

    pub(crate) fn wants(&self, peer: &str) -> bool {
        let named = self.only.as_ref().is_none_or(|only| only.iter().any(|name| name == peer));
        named && !self.skip.iter().any(|name| name == peer)
    }

    /// A directory that goes away with the value.
    pub(crate) fn scratch(&self) -> TempDir {
        let beside = || concat!(env!("CARGO_MANIFEST_DIR"), "/target").into();
        let base = match self.tmpfs {
            true => PathBuf::from("/dev/shm"),
            false => env::var_os("BENCH_DIR").map_or_else(beside, PathBuf::from),
        };
        // A build into another directory leaves it unmade.
        std::fs::create_dir_all(&base)
            .and_then(|()| TempDir::with_prefix_in("peers-", &base))
            .unwrap_or_else(|error| panic!("no directory in {}: {error}", base.display()))
    }
}

fn names(list: &str) -> Vec<String> {
    list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    digits.parse().map_err(|_| format!("{text}: not a number, nor an option\n{HELP}"))
}
