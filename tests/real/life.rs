//! Lives of the process: started, heard, and ended.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::budget::Budget;
use crate::oracle::{Oracle, Totals, Verdict, ensure};
use crate::{FILE_VARIABLE, ORDER_VARIABLE, Order, Random};

const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
/// Lines of a life that is to be killed at a system call which it may never come to.
const LINES_MAX: u64 = 800;

/// When the process is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    /// So long after it was started: while it opens the file, too.
    Started(Duration),
    /// So long after it had opened the file.
    Opened(Duration),
    /// After so many lines, and so long.
    Line(u64, Duration),
    /// As one of its threads makes this system call for the n-th time, before anything comes of
    /// it.
    Call(&'static str, u64),
}

impl Moment {
    pub(crate) fn draw(random: &mut Random) -> Self {
        match random.below(4) {
            0 => Self::Started(Duration::from_micros(random.below(60_000))),
            1 => Self::Opened(Duration::from_micros(random.below(120_000))),
            _ => Self::Line(1 + random.below(4_000), Duration::from_micros(random.below(500))),
        }
    }

    fn delay(self) -> Duration {
        match self {
            Self::Started(delay) | Self::Opened(delay) | Self::Line(_, delay) => delay,
            Self::Call(..) => Duration::MAX,
        }
    }

    /// Whether the clock starts, now that this line is heard.
    fn is_due(self, line: &str, heard: u64) -> bool {
        match self {
            Self::Started(_) | Self::Call(..) => false,
            Self::Opened(_) => line == "@opened",
            Self::Line(count, _) => heard == count,
        }
    }
}

/// A command that runs one test of this binary in a process of its own, with something injected
/// into its system calls.
pub(crate) fn ourselves(test: &str, injected: Option<&str>) -> Command {
    let ourselves = std::env::current_exe().unwrap();
    let mut command = match injected {
        None => Command::new(ourselves),
        Some(injected) => {
            let mut command = Command::new("strace");
            let traced = injected.split(':').next().unwrap();
            command.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
            command.arg(format!("trace={traced}")).arg("-e").arg(format!("inject={injected}")).arg(ourselves);
            command
        }
    };
    command.args([test, "--exact", "--nocapture", "--test-threads=1", "--quiet"]);
    command.stdin(Stdio::null());
    command
}

fn start(path: &Path, order: &Order, moment: Option<Moment>) -> Child {
    let injected = match moment {
        Some(Moment::Call(call, number)) => Some(format!("{call}:signal=KILL:when={number}")),
        _ => None,
    };
    ourselves("worker::process", injected.as_deref())
        .env(FILE_VARIABLE, path)
        .env(ORDER_VARIABLE, order.to_text())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the word, or the end of the pipe, then so long, then kills.
fn kill(child: &Mutex<Child>, due: &Receiver<()>, over: &Receiver<()>, moment: Moment) {
    // An error says that the process is gone by itself, which its exit status tells.
    if due.recv().is_ok() && over.recv_timeout(moment.delay()).is_err() {
        child.lock().unwrap().kill().unwrap();
    }
}

/// One life of the process, heard to its end.
fn live(
    path: &Path,
    order: &Order,
    moment: Option<Moment>,
    oracle: &mut Oracle,
) -> Result<ExitStatus, String> {
    let mut child = start(path, order, moment);
    let pipe = BufReader::new(child.stdout.take().unwrap());
    let child = Mutex::new(child);
    let mut verdict = Ok(());
    thread::scope(|scope| {
        let (due, due_here) = sync_channel(1);
        let (over, over_here) = sync_channel::<()>(1);
        let mut due = Some(due);
        if let Some(moment) = moment {
            let child = &child;
            scope.spawn(move || kill(child, &due_here, &over_here, moment));
        }
        if matches!(moment, Some(Moment::Started(_))) {
            due.take().unwrap().send(()).unwrap();
        }
        let mut heard = 0;
        for line in pipe.lines().map_while(Result::ok) {
            heard += u64::from(line.starts_with('@'));
            if moment.is_some_and(|moment| moment.is_due(&line, heard))
                && let Some(due) = due.take()
            {
                due.send(()).unwrap();
            }
            // To the end of the pipe even after a violation, or the process would wait for a
            // reader.
            if verdict.is_ok() {
                verdict = oracle.hear(&line);
            }
            if verdict.is_err() {
                child.lock().unwrap().kill().unwrap();
            }
        }
        over.try_send(()).unwrap_or(());
    });
    let status = child.lock().unwrap().wait().unwrap();
    oracle.bury();
    verdict.map(|()| status)
}

/// Where a file lies.
pub(crate) trait Place {
    /// The file's path.
    fn path(&self) -> &Path;

    /// Keeps the file for the search for the bug, and says where.
    fn keep(self) -> String;
}

/// A directory of its own.
pub(crate) struct Directory {
    directory: TempDir,
    path: PathBuf,
}

impl Directory {
    pub(crate) fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tormented.idem");
        Self { directory, path }
    }
}

impl Place for Directory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn keep(self) -> String {
        self.directory.keep().display().to_string()
    }
}

/// Torments one file after the other, as long as the budget lasts. Where something is wrong the
/// file is kept.
pub(crate) fn torment_files<P: Place>(
    mut budget: Budget,
    place: impl Fn() -> P,
    torment: impl Fn(&P, &mut File, &mut Random, &mut Oracle) -> Verdict,
) -> Totals {
    let mut totals = Totals::default();
    while let Some(seed) = budget.next_seed() {
        let place = place();
        let before = totals.kills;
        let mut oracle = Oracle::new(totals);
        let mut file = File { path: place.path(), small: seed % 4 != 0, life: 0 };
        let verdict = torment(&place, &mut file, &mut Random(seed), &mut oracle);
        totals = oracle.totals;
        if let Err(what) = verdict {
            panic!("{what}\n{totals:?}, files kept in {}", place.keep());
        }
        budget.count(totals.kills - before);
    }
    println!("{totals:?}");
    totals
}

/// One file, in the hands of one process after the other.
pub(crate) struct File<'a> {
    pub(crate) path: &'a Path,
    pub(crate) small: bool,
    pub(crate) life: u64,
}

impl File<'_> {
    /// A life that is killed at a moment.
    pub(crate) fn kill(&mut self, moment: Moment, random: &mut Random, oracle: &mut Oracle) -> Verdict {
        let life = self.life;
        let is_call = matches!(moment, Moment::Call(..));
        let lines_max = if is_call { LINES_MAX } else { 0 };
        let order = Order { small: self.small, walk_only: false, life, seed: random.next(), lines_max };
        let status = live(self.path, &order, Some(moment), oracle)
            .map_err(|what| format!("life {life}, killed at {moment:?}: {what}"))?;
        let outlived = is_call && status.signal() == Some(SIGABRT);
        ensure(status.signal() == Some(SIGKILL) || outlived, || {
            format!("life {life} ended by itself: {status}")
        })?;
        self.life += 1;
        oracle.totals.outlived += u64::from(outlived);
        oracle.totals.kills += u64::from(!outlived);
        Ok(())
    }

    /// Two lives that only look, and close the file.
    pub(crate) fn walk(&self, oracle: &mut Oracle) -> Verdict {
        for _ in 0..2 {
            let order = Order { small: self.small, walk_only: true, life: self.life, seed: 0, lines_max: 0 };
            let status = live(self.path, &order, None, oracle)?;
            ensure(status.success() && oracle.closed, || format!("the last life was not closed: {status}"))?;
        }
        Ok(())
    }
}
