//! `idemkv restore`: a backup takes the place of a file.
//!
//! At no moment is the file's name free: a service that starts then would make a new file, and
//! know nothing of what was done. So the file gets a second name, its log is moved, and the copy
//! of the backup replaces the first name in one step.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use idemkv::{Checked, Engine, Status};

use crate::answer::{Answer, Trouble};
use crate::asking::Consent;
use crate::format::bytes;
use crate::working::{Working, shown};
use crate::{opening, verify};

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The backup; it stays as it is
    backup: PathBuf,
    /// The file in whose place it is put
    file: PathBuf,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
}

/// A path with so much behind its name.
fn with(path: &Path, behind: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(behind);
    name.into()
}

fn is_there(path: &Path) -> Result<bool, Trouble> {
    Ok(path.try_exists()?)
}

impl Restore {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        let backup = self.check_backup()?;
        // Open until the end, so that no service opens the file meanwhile.
        let present = self.look_at_present()?;
        let file = fs::canonicalize(&self.file).unwrap_or_else(|_missing| self.file.clone());
        if fs::canonicalize(&self.backup)? == file {
            return Err(Trouble::refused("the backup and the file are the same file"));
        }
        let stamp = backup.now().as_millis();
        let aside = with(&file, &format!(".before-restore-{stamp}"));
        self.show(present.as_ref(), &backup, &aside)?;
        if self.dry_run {
            writeln!(out, "nothing was done (--dry-run)")?;
            return Ok(Answer::Fine);
        }
        self.consent.get(&[])?;
        let copy = with(&file, ".restoring");
        let copied = self.copy(&copy, &file).and_then(|()| put(&copy, &file, &aside));
        if copied.is_err() {
            // Best effort: it is a copy.
            drop(fs::remove_file(&copy));
        }
        copied?;
        drop((present, backup));
        let (answer, checked) = verify::check(&file)?;
        verify::show(out, &checked.map_err(|error| Trouble::new(answer, error))?)?;
        Ok(answer)
    }

    /// A backup is one file, and sound.
    fn check_backup(&self) -> Result<Engine, Trouble> {
        let (answer, checked) = verify::check(&self.backup)?;
        let refused = |why: String| Trouble::new(answer, format_args!("the backup can't be used: {why}"));
        let Checked { log_frames, .. } = checked.map_err(refused)?;
        if answer != Answer::Fine {
            return Err(refused("`idemkv verify` says what is wrong with it".to_owned()));
        }
        if log_frames > 0 {
            return Err(Trouble::refused(
                "the backup was opened since it was made, and not closed: results are in the log beside it. \
                 Make a backup of it, and restore that",
            ));
        }
        opening::to_look(&self.backup)
    }

    /// The file as it is; `None` if there is none, or it can't be opened.
    fn look_at_present(&self) -> Result<Option<Engine>, Trouble> {
        if !is_there(&self.file)? {
            return Ok(None);
        }
        match opening::to_look(&self.file) {
            Ok(engine) => Ok(Some(engine)),
            Err(trouble) if trouble.answer() == Answer::InUse => Err(trouble),
            // That is what backups are for.
            Err(_damaged) => Ok(None),
        }
    }

    fn show(&self, present: Option<&Engine>, backup: &Engine, aside: &Path) -> Result<(), Trouble> {
        let mut plan = vec![format!(
            "puts a copy of the backup ({}) in the place of {}",
            bytes(backup.stats().file_bytes),
            self.file.display()
        )];
        if is_there(&self.file)? {
            plan.push(format!("moves the file and its log aside: {}", aside.display()));
        }
        match present {
            Some(present) => {
                let (unknown, unread) = unknown_to(backup, present)?;
                plan.push(format!(
                    "forgets {unknown} keys that the file knows and the backup does not: a retry runs those operations \
                     again (`idemkv export {}` lists them all)",
                    aside.display()
                ));
                if unread > 0 {
                    plan.push(format!("{unread} keys of the file can't be read, and may be such keys, too"));
                }
            }
            None => plan.push(
                "can't tell which keys the backup does not know: there is no file, or it can't be opened"
                    .to_owned(),
            ),
        }
        for line in plan {
            eprintln!("- {line}");
        }
        Ok(())
    }

    fn copy(&self, copy: &Path, file: &Path) -> Result<(), Trouble> {
        let working = Working::start(format!("copies {}", shown(&self.backup)));
        fs::copy(&self.backup, copy)?;
        drop(working);
        if is_there(file)? {
            give_to_owner_of(file, copy)?;
        }
        File::open(copy)?.sync_all()?;
        let (answer, checked) = verify::check(copy)?;
        match checked {
            Ok(_) if answer == Answer::Fine => Ok(()),
            Ok(_) => Err(Trouble::new(answer, "the copy of the backup is not sound; check the disk")),
            Err(error) => {
                Err(Trouble::new(answer, format_args!("the copy of the backup is not sound: {error}")))
            }
        }
    }
}

/// The copy is for the users that the file is for.
fn give_to_owner_of(file: &Path, copy: &Path) -> Result<(), Trouble> {
    let like = fs::metadata(file)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, chown};
        let now = fs::metadata(copy)?;
        if (now.uid(), now.gid()) != (like.uid(), like.gid()) {
            chown(copy, Some(like.uid()), Some(like.gid()))?;
        }
    }
    Ok(fs::set_permissions(copy, like.permissions())?)
}

/// Keys that `present` knows and `backup` does not, and keys that can't be read.
fn unknown_to(backup: &Engine, present: &Engine) -> Result<(u64, u64), Trouble> {
    let (mut unknown, mut unread) = (0, 0);
    for entry in present.entries() {
        match entry {
            Ok(entry) => {
                let status = backup.scope(entry.scope()).get(entry.key())?;
                let was_open = matches!(status, Status::Interrupted(_) | Status::InFlight(_));
                let is_done = matches!(entry.status(), Status::Done(_) | Status::Expired(_));
                unknown += u64::from(matches!(status, Status::Vacant) || (was_open && is_done));
            }
            Err(_unread) => unread += 1,
        }
    }
    Ok((unknown, unread))
}

/// Puts the copy in the place of the file, which stays under another name.
fn put(copy: &Path, file: &Path, aside: &Path) -> Result<(), Trouble> {
    let log = |path| with(path, "-wal");
    if is_there(file)? {
        fs::hard_link(file, aside)?;
    }
    if is_there(&log(file))? {
        fs::rename(log(file), log(aside))?;
    }
    fs::rename(copy, file)?;
    if let Some(folder) = file.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        // What can't be opened as a file is synced by the system in its own time.
        if let Ok(folder) = File::open(folder) {
            folder.sync_all()?;
        }
    }
    Ok(())
}
