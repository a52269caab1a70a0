//! `idemkv doctor`: what is wrong with a file, what can be saved, and what to do.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use idemkv::{Engine, OpenError, Verdict};

use crate::answer::{Answer, Trouble};
use crate::verify;

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    file: PathBuf,
}

/// What is said of one state of a file.
struct Advice {
    meaning: &'static str,
    saved: &'static str,
    steps: &'static [&'static str],
}

impl Doctor {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        match Engine::options().check_file(&self.file) {
            Ok(checked) => {
                verify::show(out, &checked)?;
                let (answer, advice) = match checked.verdict() {
                    Verdict::Sound => (Answer::Fine, &SOUND),
                    Verdict::Inconclusive if checked.unread > 0 => (Answer::Inconclusive, &UNREAD),
                    Verdict::Inconclusive => (Answer::Inconclusive, &UNCLEAR_END),
                    Verdict::Damaged => (Answer::Damaged, &DAMAGED_RECORDS),
                };
                say(out, advice)?;
                if checked.interrupted > 0 {
                    writeln!(
                        out,
                        "{} keys are interrupted: nobody knows whether their operations took effect. \
                         `idemkv list --state interrupted` lists them, `idemkv resolve` settles them.",
                        checked.interrupted
                    )?;
                }
                Ok(answer)
            }
            Err(error) => {
                writeln!(out, "{error}")?;
                say(out, advice(&error))?;
                let answer = Answer::of(&error);
                if matches!(error, OpenError::Damaged(_)) {
                    out.flush()?;
                    try_to_save(out, &self.file)?;
                }
                Ok(answer)
            }
        }
    }
}

fn say(out: &mut impl Write, advice: &Advice) -> Result<(), Trouble> {
    writeln!(out, "\nWhat it means: {}", advice.meaning)?;
    writeln!(out, "What can be saved: {}", advice.saved)?;
    writeln!(out, "What to do:")?;
    for (number, step) in (1..).zip(advice.steps) {
        writeln!(out, "  {number}. {step}")?;
    }
    Ok(())
}

/// Counts what an export gives of a file whose pages are damaged. In a process of its own: the
/// store's library may abort it.
fn try_to_save(out: &mut impl Write, file: &Path) -> Result<(), Trouble> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["export", "--unverified"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut keys = 0_u64;
    if let Some(lines) = child.stdout.take() {
        for line in BufReader::new(lines).split(b'\n') {
            keys += u64::from(line?.starts_with(b"{\"attempt\""));
        }
    }
    let ended = child.wait()?;
    if keys > 0 {
        let whole = if ended.success() { "and no key is missing" } else { "and some are missing" };
        writeln!(out, "Tried: `idemkv export --unverified` reads {keys} keys of it, {whole}.")?;
    } else {
        writeln!(out, "Tried: `idemkv export --unverified` reads nothing of it.")?;
    }
    Ok(())
}

fn advice(error: &OpenError) -> &'static Advice {
    match error {
        OpenError::Locked(_) => &IN_USE,
        OpenError::Damaged(_) => &DAMAGED,
        OpenError::NotIdemkv(_) => &NOT_OURS,
        OpenError::LogMissing { .. }
        | OpenError::LogOfAnotherFile(_)
        | OpenError::LogOfEarlierOpening { .. } => &LOG_APART,
        OpenError::LogWithoutFile(_) => &FILE_GONE,
        OpenError::LogBesideBackup(_) => &LOG_BESIDE_BACKUP,
        OpenError::NewerVersion { .. } | OpenError::OlderVersion { .. } => &OTHER_VERSION,
        OpenError::Io(failure) if failure.kind() == io::ErrorKind::NotFound => &NOTHING_THERE,
        OpenError::Io(_) => &NOT_READ,
        _ => &REFUSED,
    }
}

const SOUND: Advice = Advice {
    meaning: "everything in the file and its log was read, and is what was written.",
    saved: "everything.",
    steps: &["Nothing."],
};

const UNCLEAR_END: Advice = Advice {
    meaning: "the last process was killed, or the power failed, while it wrote; or the last frame of its log is \
              damaged. The two look alike.",
    saved: "every frame before that one, and the whole file. In the first case nothing that was acknowledged is missing.",
    steps: &[
        "Open the file with the service: it goes on behind the last whole frame.",
        "If the disk is suspect, look at the keys that are interrupted afterwards: the operations of the last moment \
         are among them.",
    ],
};

const UNREAD: Advice = Advice {
    meaning: "the operating system refused to read a part of the file. The disk may have bad sectors.",
    saved: "every other key.",
    steps: &[
        "Stop the service. Look into the system's log for errors of the disk.",
        "Take a backup of now, on a good disk: `idemkv backup FILE TARGET`. If it is written, it has everything: restore \
         it there with `idemkv restore`.",
        MOVE_ON,
        LAST_BACKUP,
    ],
};

const DAMAGED_RECORDS: Advice = Advice {
    meaning: "some records are not what was written. The engine refuses those keys and serves all others.",
    saved: "every other key.",
    steps: &[
        "Stop the service, and keep the file and its log as they are.",
        MOVE_ON,
        LAST_BACKUP,
        "Check memory and disk of the machine: bytes do not change by themselves.",
    ],
};

const MOVE_ON: &str = "Otherwise export what is there: `idemkv export FILE > saved.jsonl` says how many keys it leaves \
                       out. Make a new file of that: `idemkv import saved.jsonl NEW`. Its step keys are others. The \
                       operations of the keys that are left out would run again: compare with the traces that they \
                       left elsewhere before clients come back.";

const LAST_BACKUP: &str = "Only if too much is left out, restore the last backup: `idemkv restore` says how many keys \
                           it does not know. Their operations run again when they are retried.";

const DAMAGED: Advice = Advice {
    meaning: "bytes of the file or its log are not what was written, or the two are not of one moment.",
    saved: "nothing by opening it; perhaps some keys by an export that passes damaged pages (below).",
    steps: &[
        "Stop the service, and keep the file and its log as they are.",
        "If one of the two was put back from a copy alone: put both back from the same copy.",
        "Try `idemkv export --unverified FILE > saved.jsonl`: what it writes is right, and some may be missing. If it has \
         more than the last backup, make a new file of it: `idemkv import saved.jsonl NEW`.",
        "Otherwise restore both from the last backup: `idemkv restore`. Operations that are not in what you restore run \
         again when they are retried: compare with the traces that they left elsewhere first.",
        "Never start with a new file in its place: it would know nothing of what was done.",
    ],
};

const NOT_OURS: Advice = Advice {
    meaning: "the file does not start as idemkv's files do: it is another program's, or its first page is damaged.",
    saved: "nothing by this command.",
    steps: &[
        "Find out which it is.",
        "Restore a damaged file and its log from the last backup: `idemkv restore`.",
    ],
};

const IN_USE: Advice = Advice {
    meaning: "a process has the file open. That is no fault.",
    saved: "everything: nothing is wrong as far as this command can know.",
    steps: &[
        "To look: let the process make a backup (Engine::backup), and look at that.",
        "To change something: stop the process first.",
    ],
};

const LOG_APART: Advice = Advice {
    meaning: "the file was not closed cleanly, and the log beside it is missing or another one. Results that were \
              acknowledged are in the right log.",
    saved: "everything, once the right log is there.",
    steps: &[
        "Find the log: it was beside the name that the error gives, with -wal behind.",
        "Put it beside the file, and verify again.",
        "If it is lost: restore the last backup, and compare with the traces that operations left elsewhere.",
    ],
};

const FILE_GONE: Advice = Advice {
    meaning: "the file is gone, or has another name: its log is there without it.",
    saved: "everything, once the file is there again.",
    steps: &[
        "Let no service start here: with a new file it would know nothing of what was done.",
        "Find the file, and put it back beside its log.",
        "If it is lost: `idemkv restore` puts the last backup in its place, and the log aside. Keep the log.",
    ],
};

const NOTHING_THERE: Advice = Advice {
    meaning: "there is neither such a file, nor a log of one.",
    saved: "this command can't know.",
    steps: &[
        "Correct the path.",
        "If the file should be here, let no service start: with a new file it would know nothing of what was done. Find \
         the file and its log, or restore the last backup: `idemkv restore`.",
    ],
};

const NOT_READ: Advice = Advice {
    meaning: "the operating system refused to open or read the file; the error above says what.",
    saved: "this command can't know before the file can be read.",
    steps: &[
        "Do what the error says, and ask again.",
        "If the disk failed: copy the file and its log to a good one as far as they can be read, keep the originals, and \
         ask again there.",
        "Only if that does not open either, restore the last backup: `idemkv restore`.",
    ],
};

const LOG_BESIDE_BACKUP: Advice = Advice {
    meaning: "the file is a backup that was never opened, and the log beside it is of the file that it replaced.",
    saved: "everything in the backup. What the log holds belongs to the file that was replaced.",
    steps: &[
        "Move the log to the file that was replaced, or away; keep it.",
        "Next time use `idemkv restore`, which moves both.",
    ],
};

const OTHER_VERSION: Advice = Advice {
    meaning: "another version of idemkv wrote the file, or the bytes that say the version are damaged.",
    saved: "everything, with the version that wrote it.",
    steps: &["Use the command of that version."],
};

const REFUSED: Advice = Advice {
    meaning: "the file could not be opened; the error above says why.",
    saved: "this command can't know before the file is open.",
    steps: &["Do what the error says, and ask again."],
};
