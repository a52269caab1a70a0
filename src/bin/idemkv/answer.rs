//! The answer of a subcommand as an exit code, and what can keep a subcommand from its work.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use idemkv::{OpenError, ReadError};

/// What a subcommand found; the exit code says it to scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done, or sound.
    Fine,
    /// Refused, or an error.
    Refused,
    /// The file is damaged.
    Damaged,
    /// Whether the file is damaged can't be told.
    Inconclusive,
    /// Another process has the file open.
    InUse,
    /// There is no such key.
    Absent,
    /// Done, but the file could not be closed, or the output not be written.
    DoneBut,
}

impl From<Answer> for ExitCode {
    fn from(answer: Answer) -> Self {
        // clap ends the process with 2 on a wrong argument.
        Self::from(match answer {
            Answer::Fine => 0,
            Answer::Refused => 1,
            Answer::Damaged => 3,
            Answer::Inconclusive => 4,
            Answer::InUse => 5,
            Answer::Absent => 6,
            Answer::DoneBut => 7,
        })
    }
}

impl Answer {
    /// What an error says of the file.
    pub(crate) fn of(error: &OpenError) -> Self {
        match error {
            OpenError::Locked(_) => Self::InUse,
            OpenError::Damaged(_)
            | OpenError::NotIdemkv(_)
            | OpenError::LogMissing { .. }
            | OpenError::LogWithoutFile(_)
            | OpenError::LogOfAnotherFile(_)
            | OpenError::LogOfEarlierOpening { .. }
            | OpenError::LogBesideBackup(_) => Self::Damaged,
            OpenError::NewerVersion { .. } | OpenError::OlderVersion { .. } => Self::Inconclusive,
            OpenError::Io(failure) if failure.kind() != io::ErrorKind::NotFound => Self::Inconclusive,
            _ => Self::Refused,
        }
    }

    /// The graver of two answers on damage.
    pub(crate) fn and(self, other: Self) -> Self {
        let gravity = |answer| match answer {
            Self::Fine => 0,
            Self::Absent => 1,
            Self::Inconclusive => 2,
            Self::Damaged => 3,
            Self::InUse | Self::Refused | Self::DoneBut => 4,
        };
        if gravity(other) > gravity(self) { other } else { self }
    }
}

/// Says what a change came to, once it is done: also where that can't be written.
pub(crate) fn tell_done<W: Write>(
    out: &mut W,
    tell: impl FnOnce(&mut W) -> Result<Answer, Trouble>,
) -> Result<Answer, Trouble> {
    let told = tell(out).and_then(|answer| {
        out.flush()?;
        Ok(answer)
    });
    told.map_err(|trouble| match trouble.refused_io {
        Some(_) => Trouble::new(
            Answer::DoneBut,
            format_args!("it was done, but not all of this could be said: {trouble}"),
        ),
        None => trouble,
    })
}

/// Why a subcommand did not do its work.
#[derive(Debug)]
pub(crate) struct Trouble {
    answer: Answer,
    said: String,
    /// What the operating system refused, if that is the trouble.
    refused_io: Option<io::ErrorKind>,
}

impl Trouble {
    pub(crate) fn new(answer: Answer, said: impl fmt::Display) -> Self {
        Self { answer, said: said.to_string(), refused_io: None }
    }

    pub(crate) fn refused(said: impl fmt::Display) -> Self {
        Self::new(Answer::Refused, said)
    }

    pub(crate) fn answer(&self) -> Answer {
        self.answer
    }

    /// Nobody reads the output any more, as behind `| head`.
    pub(crate) fn is_reader_gone(&self) -> bool {
        self.refused_io == Some(io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self { refused_io: Some(error.kind()), ..Self::refused(error) }
    }
}

impl From<OpenError> for Trouble {
    fn from(error: OpenError) -> Self {
        let answer = Answer::of(&error);
        if answer == Answer::InUse {
            return Self::new(answer, format_args!("{error}.\n{LOOK_ANYWAY}"));
        }
        Self::new(answer, error)
    }
}

const LOOK_ANYWAY: &str = "To look at it while it is in use: use the operator's page of that process, if it has one. Or \
                           let it make a backup (Engine::backup), and look at the backup. Or look at a \
                           snapshot of the file system that has the file and its log from one moment.";

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        let answer = match &error {
            ReadError::Damaged(_) => Answer::Damaged,
            ReadError::Io(_) => Answer::Inconclusive,
            _ => Answer::Refused,
        };
        Self::new(answer, error)
    }
}
