//! `idemkv verify`: sound, damaged, or inconclusive.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use idemkv::{Checked, Engine, Verdict};
use serde_json::{Value, json};

use crate::answer::{Answer, Trouble};
use crate::entry::line;
use crate::format::{Plain, bytes};
use crate::working::{Working, shown};

#[derive(Debug, Args)]
pub(crate) struct Verify {
    file: PathBuf,
    #[arg(long, value_enum, default_value_t)]
    format: Plain,
}

/// Damages that are shown to people.
const SHOWN: usize = 10;

impl Verify {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        let (answer, checked) = check(&self.file)?;
        match (self.format, checked) {
            (Plain::Text, Ok(checked)) => show(out, &checked)?,
            (Plain::Text, Err(error)) => writeln!(out, "{}: {error}", word(answer))?,
            (Plain::Json, Ok(checked)) => writeln!(out, "{}", line(&to_json(&checked)))?,
            (Plain::Json, Err(error)) => {
                writeln!(out, "{}", line(&json!({"verdict": word(answer), "error": error})))?;
            }
        }
        Ok(answer)
    }
}

/// Checks a file. What can't be opened, and may be damaged, is an answer too.
pub(crate) fn check(file: &Path) -> Result<(Answer, Result<Checked, String>), Trouble> {
    let working = Working::start(format!("reads {}", shown(file)));
    let checked = Engine::options().check_file(file);
    drop(working);
    match checked {
        Ok(checked) => Ok((answer_of(&checked), Ok(checked))),
        Err(error) => match Answer::of(&error) {
            answer @ (Answer::Damaged | Answer::Inconclusive) => Ok((answer, Err(error.to_string()))),
            Answer::Fine | Answer::Refused | Answer::InUse | Answer::Absent | Answer::DoneBut => {
                Err(error.into())
            }
        },
    }
}

fn answer_of(checked: &Checked) -> Answer {
    match checked.verdict() {
        Verdict::Sound => Answer::Fine,
        Verdict::Damaged => Answer::Damaged,
        Verdict::Inconclusive => Answer::Inconclusive,
    }
}

fn word(answer: Answer) -> &'static str {
    match answer {
        Answer::Fine => "sound",
        Answer::Damaged => "damaged",
        Answer::Inconclusive => "inconclusive",
        Answer::Refused | Answer::InUse | Answer::Absent | Answer::DoneBut => "not checked",
    }
}

pub(crate) fn show(out: &mut impl Write, checked: &Checked) -> Result<(), Trouble> {
    writeln!(out, "{}", word(answer_of(checked)))?;
    let all = if checked.unread > 0 { "what could be read" } else { "every page and each key" };
    writeln!(out, "read: {all} of the file ({}):", bytes(checked.file_bytes))?;
    writeln!(
        out,
        "  {} done, {} expired, {} interrupted, {} in flight; {} policies",
        checked.records, checked.expired, checked.interrupted, checked.in_flight, checked.policies
    )?;
    writeln!(out, "log: {}, {} frames that count", bytes(checked.log_bytes), checked.log_frames)?;
    if checked.damaged > 0 {
        writeln!(out, "damaged: {} keys", checked.damaged)?;
    }
    for damage in checked.damages.iter().take(SHOWN) {
        writeln!(out, "  {damage}")?;
    }
    if checked.unread > 0 {
        writeln!(out, "not read: {} places, because the operating system refused", checked.unread)?;
    }
    if let Some(offset) = checked.log_end_unclear {
        writeln!(
            out,
            "can't tell: at offset {offset} of the log is a frame that was never whole, or the last frame, damaged.\n\
             A process that was killed while it wrote leaves the former, and nothing acknowledged is in it. If it is the\n\
             latter, a result that was acknowledged looks like an interrupted claim."
        )?;
    }
    Ok(())
}

fn to_json(checked: &Checked) -> Value {
    json!({
        "verdict": word(answer_of(checked)),
        "done": checked.records,
        "expired": checked.expired,
        "interrupted": checked.interrupted,
        "in_flight": checked.in_flight,
        "policies": checked.policies,
        "file_bytes": checked.file_bytes,
        "log_bytes": checked.log_bytes,
        "log_frames": checked.log_frames,
        "log_end_unclear": checked.log_end_unclear,
        "damaged": checked.damaged,
        "damages": checked.damages.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "unread": checked.unread,
    })
}
