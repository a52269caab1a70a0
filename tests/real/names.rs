//! One file by many names, opened by one after the other between kills.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use idemkv::{Engine, OpenError};
use tempfile::TempDir;

use crate::budget::Budget;
use crate::life::{File, Moment, Place, torment_files};
use crate::oracle::{Oracle, Verdict, ensure};
use crate::{Order, Random};

/// Openings of each file.
const OPENINGS: u64 = 12;

/// A directory in which one file has many names.
struct Names {
    directory: TempDir,
    /// Where the file is now: its directory gets other names.
    home: std::cell::RefCell<PathBuf>,
    path: PathBuf,
    /// A second place at which the single file is mounted, where this process may mount.
    mount: Option<PathBuf>,
}

impl Names {
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = fs::canonicalize(directory.path()).unwrap().join("home-0");
        fs::create_dir(&home).unwrap();
        let path = home.join("real.idem");
        drop(Engine::open(&path).unwrap());
        let mount = directory.path().join("mounted.idem");
        fs::write(&mount, "").unwrap();
        let mounted = Command::new("mount").arg("--bind").args([&path, &mount]).output();
        let mount = mounted.is_ok_and(|output| output.status.success()).then_some(mount);
        if mount.is_none() {
            println!("SKIPPED: bind mounts, which this process may not make");
        }
        let names = Self { directory, home: home.into(), path, mount };
        names.link();
        names
    }

    /// The other names of the file, as it lies now.
    fn link(&self) {
        let home = self.home.borrow();
        for link in ["link.idem", "chain.idem"] {
            drop(fs::remove_file(self.directory.path().join(link)));
        }
        symlink(home.join("real.idem"), self.directory.path().join("link.idem")).unwrap();
        symlink("link.idem", self.directory.path().join("chain.idem")).unwrap();
        let hard = self.directory.path().join("hard.idem");
        if !hard.exists() {
            fs::hard_link(home.join("real.idem"), hard).unwrap();
        }
    }

    /// Its directory gets another name.
    fn move_home(&self, number: u64) {
        let moved = self.directory.path().join(format!("home-{number}"));
        fs::rename(&*self.home.borrow(), &moved).unwrap();
        self.home.replace(fs::canonicalize(moved).unwrap());
        self.link();
    }

    /// A name, and which log goes with it: those of one number share one.
    fn draw(&self, random: &mut Random) -> (PathBuf, usize) {
        let (home, directory) = (self.home.borrow().clone(), self.directory.path());
        match (random.below(8), &self.mount) {
            (0, _) => (home.join("real.idem"), 0),
            (1, _) => (directory.join("link.idem"), 0),
            (2, _) => (directory.join("chain.idem"), 0),
            (3, _) => (relative(&home.join("real.idem")), 0),
            (4 | 5, _) => (home.join("..").join(home.file_name().unwrap()).join("real.idem"), 0),
            (6, Some(mount)) => (mount.clone(), 1),
            _ => (directory.join("hard.idem"), 2),
        }
    }

    /// A name that has this log.
    fn of_log(&self, log: usize) -> PathBuf {
        match (log, &self.mount) {
            (0, _) => self.home.borrow().join("real.idem"),
            (1, Some(mount)) => mount.clone(),
            _ => self.directory.path().join("hard.idem"),
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if let Some(mount) = &self.mount {
            drop(Command::new("umount").arg(mount).output());
        }
    }
}

impl Place for Names {
    fn path(&self) -> &Path {
        &self.path
    }

    fn keep(self) -> String {
        format!("{} (and removed)", self.directory.path().display())
    }
}

/// From the working directory of this process, which is that of those it starts.
fn relative(path: &Path) -> PathBuf {
    let here = fs::canonicalize(".").unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    up.join(path.strip_prefix("/").unwrap())
}

/// How the file was left.
#[derive(Clone, Copy)]
enum Left {
    /// Closed cleanly: by every name it opens.
    Clean,
    /// Killed while it was open with this log.
    Killed(usize),
    /// Killed with this log, perhaps before it was open.
    Perhaps(usize),
}

/// Whether the file is refused for its log. Where it isn't, it is closed cleanly.
fn is_refused(path: &Path, order: &Order) -> Result<bool, String> {
    match order.options().open(path) {
        Ok(engine) => engine.close().map(|_| false).map_err(|error| error.to_string()),
        Err(OpenError::LogOfEarlierOpening { .. } | OpenError::LogMissing { .. }) => Ok(true),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn torment(names: &Names, file: &mut File, random: &mut Random, oracle: &mut Oracle) -> Verdict {
    let order = Order { small: file.small, walk_only: true, life: 0, seed: 0, lines_max: 0 };
    let mut left = Left::Clean;
    for opening in 0..OPENINGS {
        if random.below(4) == 0 {
            names.move_home(opening + 1);
        }
        let (path, log) = names.draw(random);
        if let Left::Killed(last) | Left::Perhaps(last) = left
            && last != log
        {
            let refused = is_refused(&path, &order)?;
            ensure(refused || matches!(left, Left::Perhaps(_)), || {
                format!("{} opened without its log", path.display())
            })?;
            let right = names.of_log(last);
            File { path: &right, small: file.small, life: file.life }.walk(oracle)?;
        }
        let unopened = oracle.totals.before_opened;
        let mut named = File { path: &path, small: file.small, life: file.life };
        named.kill(Moment::draw(random), random, oracle)?;
        file.life = named.life;
        let was_opened = oracle.totals.before_opened == unopened;
        left = if was_opened { Left::Killed(log) } else { Left::Perhaps(log) };
    }
    let (Left::Killed(log) | Left::Perhaps(log)) = left else { return Ok(()) };
    let path = names.of_log(log);
    File { path: &path, small: file.small, life: file.life }.walk(oracle)
}

#[test]
fn nothing_is_lost_nor_granted_twice_by_whatever_name_the_file_is_opened() {
    let rig = "real::names::nothing_is_lost_nor_granted_twice_by_whatever_name_the_file_is_opened";
    let totals =
        torment_files(Budget::new(rig, "openings by random names that were killed", 5), Names::make, torment);
    assert!(totals.done > 0 && totals.interrupted > 0, "{totals:?}");
}
