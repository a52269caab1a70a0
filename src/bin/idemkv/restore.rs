//! `idemkv restore`: a backup takes the place of a file.
//!
//! At no moment is the file's name free: a service that starts then would make a new file, and
//! know nothing of what was done. So the file gets a second name, its log is moved, and the copy
//! of the backup replaces the first name in one step. Where there is no file, the name is taken
//! first.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use idemkv::{Checked, Engine, Status};

use crate::answer::{Answer, Trouble, tell_done};
use crate::asking::Consent;
use crate::format::bytes;
use crate::identity::Identity;
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

/// What stands at the file's name. No service opens it while this is kept.
enum Present {
    /// Nothing.
    Nothing,
    /// A file, open to be read.
    Readable(Identity, Engine),
    /// A file that can't be opened as one of the engine's, and that is locked, where it can be.
    Unreadable { identity: Identity, _lock: Option<File> },
}

impl Present {
    fn identity(&self) -> Option<Identity> {
        match *self {
            Self::Nothing => None,
            Self::Readable(identity, _) | Self::Unreadable { identity, .. } => Some(identity),
        }
    }
}

/// What holds the place of a file that is being restored: no file of the engine's, and not empty,
/// so that a service that starts is refused.
const PLACEHOLDER: &[u8] = b"idemkv restore is putting a backup here\n";

/// A path with so much behind its name.
fn with(path: &Path, behind: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(behind);
    name.into()
}

/// A new file that its owner alone can read: it has the mode of the backup later.
fn create_private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.write(true).create_new(true).open(path)
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
        self.show(&present, &backup, &aside)?;
        if self.dry_run {
            writeln!(out, "nothing was done (--dry-run)")?;
            return Ok(Answer::Fine);
        }
        self.consent.get(&[])?;
        self.replace(&present, &file, &aside)?;
        drop((present, backup));
        tell_done(out, |out| tell(out, &file))
    }

    /// Replaces what was looked at, and nothing else.
    fn replace(&self, present: &Present, file: &Path, aside: &Path) -> Result<(), Trouble> {
        if let Some(looked_at) = present.identity() {
            return self.put_copy(file, aside, looked_at, true);
        }
        // Open until the end, so that no other file gets its identity.
        let (placeholder, taken) = take_name(file)?;
        let put = self.put_copy(file, aside, taken, false);
        if put.is_err() {
            give_up_name(file);
        }
        drop(placeholder);
        put
    }

    /// `standing` is what it replaces, and `has_before` says whether that is put aside.
    fn put_copy(
        &self,
        file: &Path,
        aside: &Path,
        standing: Identity,
        has_before: bool,
    ) -> Result<(), Trouble> {
        let copy = with(file, ".restoring");
        // Another restore may fill one: it must not get this one's bytes into its own.
        let room = create_private(&copy).map_err(|error| {
            let path = copy.display();
            Trouble::refused(format_args!("{path}: {error}; if a restore was killed, remove it"))
        })?;
        // What a killed restore left there is for nobody.
        let like = (has_before && !is_placeholder(file)).then_some(file);
        let copied =
            self.copy(room, &copy, like).and_then(|()| put(&copy, file, aside, standing, has_before));
        if copied.is_err() {
            // Best effort: it is a copy.
            drop(fs::remove_file(&copy));
        }
        copied
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

    /// The file as it is.
    fn look_at_present(&self) -> Result<Present, Trouble> {
        if !is_there(&self.file)? {
            return Ok(Present::Nothing);
        }
        // Before it is opened: if another file is opened, it is not the one that is replaced.
        let identity = Identity::at(&self.file)?;
        match opening::to_look(&self.file) {
            Ok(engine) => return Ok(Present::Readable(identity, engine)),
            Err(trouble) if trouble.answer() == Answer::InUse => return Err(trouble),
            // That is what backups are for.
            Err(_damaged) => {}
        }
        // A service of a newer version may open what this command can't.
        let Ok(file) = File::open(&self.file) else {
            return Ok(Present::Unreadable { identity, _lock: None });
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Present::Unreadable { identity, _lock: Some(file) }),
            Err(TryLockError::WouldBlock) => {
                Err(Trouble::new(Answer::InUse, "another process has opened the file meanwhile"))
            }
            Err(TryLockError::Error(_no_locks)) => Ok(Present::Unreadable { identity, _lock: None }),
        }
    }

    fn show(&self, present: &Present, backup: &Engine, aside: &Path) -> Result<(), Trouble> {
        let mut plan = vec![format!(
            "puts a copy of the backup ({}) in the place of {}",
            bytes(backup.stats().file_bytes),
            self.file.display()
        )];
        if !matches!(present, Present::Nothing) {
            plan.push(format!("moves the file and its log aside: {}", aside.display()));
        }
        match present {
            Present::Readable(_, present) => {
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
            Present::Nothing => {
                plan.push("can't tell which keys the backup does not know: there is no file".to_owned());
                if is_there(&with(&self.file, "-wal"))? {
                    plan.push(format!(
                        "moves a log that lies here without its file aside: {}-wal. It may have results that nothing \
                         else has: look for its file first",
                        aside.display()
                    ));
                }
            }
            Present::Unreadable { .. } => plan
                .push("can't tell which keys the backup does not know: the file can't be opened".to_owned()),
        }
        for line in plan {
            eprintln!("- {line}");
        }
        Ok(())
    }

    /// Fills the copy, for the users that the file `like` is for.
    fn copy(&self, room: File, copy: &Path, like: Option<&Path>) -> Result<(), Trouble> {
        let working = Working::start(format!("copies {}", shown(&self.backup)));
        // Before there is something to read.
        room.set_permissions(fs::metadata(&self.backup)?.permissions())?;
        io::copy(&mut File::open(&self.backup)?, &mut &room)?;
        drop(working);
        if let Some(like) = like {
            give_to_owner_of(like, copy)?;
        }
        room.sync_all()?;
        drop(room);
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

/// Why nothing was put in the place of a file.
fn was_made(file: &Path) -> Trouble {
    Trouble::refused(format_args!(
        "nothing was done: {} was made since it was looked at, and may have results. Stop what made it, and \
         restore again",
        file.display()
    ))
}

/// Takes the name of a file that was not there at the look.
fn take_name(file: &Path) -> Result<(File, Identity), Trouble> {
    let mut made = create_private(file).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => was_made(file),
        _ => error.into(),
    })?;
    let identity = Identity::of(&made.metadata()?);
    if let Err(error) = made.write_all(PLACEHOLDER) {
        // While it was empty, a service may have taken it for what a killed one left.
        if Identity::at(file).is_ok_and(|found| found == identity) {
            // Best effort: no service takes it for a file of the engine's.
            drop(fs::remove_file(file));
        }
        return Err(error.into());
    }
    Ok((made, identity))
}

fn is_placeholder(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.len() == PLACEHOLDER.len() as u64)
        && fs::read(file).is_ok_and(|bytes| bytes == PLACEHOLDER)
}

/// Removes what [`take_name`] put there, if it is still that.
fn give_up_name(file: &Path) {
    if is_placeholder(file) {
        // Best effort: the next restore puts it aside.
        drop(fs::remove_file(file));
    }
}

/// Says that the file is restored, and checks it once more, unless a service has opened it since.
/// The copy was checked before it got the name.
fn tell(out: &mut impl Write, file: &Path) -> Result<Answer, Trouble> {
    writeln!(out, "restored: {}", file.display())?;
    match verify::check(file) {
        Ok((answer, checked)) => {
            verify::show(out, &checked.map_err(|error| Trouble::new(answer, error))?)?;
            Ok(answer)
        }
        Err(trouble) if trouble.answer() == Answer::InUse => {
            writeln!(out, "a process has opened it since; the copy was sound before that")?;
            Ok(Answer::Fine)
        }
        Err(trouble) => Err(trouble),
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

/// Puts the copy in the place of the file, which stays under the name `aside`, as does its log.
/// What stands there may have been moved since the look, and a service have made another.
fn put(copy: &Path, file: &Path, aside: &Path, standing: Identity, has_before: bool) -> Result<(), Trouble> {
    let log = |path| with(path, "-wal");
    if has_before {
        fs::hard_link(file, aside)?;
    }
    // It is a second name alone.
    let remove_aside = || {
        if has_before {
            drop(fs::remove_file(aside));
        }
    };
    if Identity::at(if has_before { aside } else { file })? != standing {
        remove_aside();
        return Err(was_made(file));
    }
    let has_log = is_there(&log(file))?;
    if has_log {
        fs::rename(log(file), log(aside))?;
    }
    if let Err(error) = fs::rename(copy, file) {
        // Nothing opens without its log.
        if !has_log || fs::rename(log(aside), log(file)).is_ok() {
            remove_aside();
        }
        return Err(error.into());
    }
    if let Some(folder) = file.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        // What can't be opened as a file is synced by the system in its own time.
        if let Ok(folder) = File::open(folder) {
            folder.sync_all()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use idemkv::{Begin, Fingerprint, OpenError};

    use super::*;

    /// A backup with the key `old`, and a command that restores it to a name that is free.
    fn backed_up() -> (tempfile::TempDir, Restore) {
        let folder = tempfile::tempdir().unwrap();
        let backup = folder.path().join("backup.idem");
        let lost = Engine::open(folder.path().join("lost.idem")).unwrap();
        charge(&lost, "old");
        lost.backup(&backup).unwrap();
        let file = folder.path().join("x.idem");
        (folder, Restore { backup, file, dry_run: false, consent: Consent { yes: true } })
    }

    fn charge(engine: &Engine, key: &str) {
        match engine.default_scope().begin(key, Fingerprint::of("request")).unwrap() {
            Begin::Fresh(claim) => drop(claim.complete("charged").unwrap()),
            Begin::InFlight(_) | Begin::Done(_) => unreachable!("it is new"),
        }
    }

    fn is_done(engine: &Engine, key: &str) -> bool {
        matches!(engine.default_scope().get(key).unwrap(), Status::Done(_))
    }

    /// Between the look and the answer a supervisor has started the service, without a file.
    #[test]
    fn a_file_that_was_made_since_the_look_is_not_replaced() {
        let (folder, restore) = backed_up();
        let present = restore.look_at_present().unwrap();
        let engine = Engine::open(&restore.file).unwrap();
        charge(&engine, "new");
        let before = fs::read_dir(folder.path()).unwrap().count();
        let refused = restore.replace(&present, &restore.file, &folder.path().join("aside")).unwrap_err();
        assert!(refused.to_string().contains("was made since it was looked at"), "{refused}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before);
        assert!(is_done(&engine, "new"));
        charge(&engine, "newer");
        engine.close().unwrap();
        assert!(is_done(&opening::to_look(&restore.file).unwrap(), "newer"));
    }

    /// A person has moved the file away, and its log.
    #[cfg(unix)]
    #[test]
    fn a_file_that_was_moved_and_made_anew_since_the_look_is_not_replaced() {
        let (folder, restore) = backed_up();
        let old = Engine::open(&restore.file).unwrap();
        charge(&old, "old");
        old.close().unwrap();
        let present = restore.look_at_present().unwrap();
        for end in ["", "-wal"] {
            if is_there(&with(&restore.file, end)).unwrap() {
                fs::rename(with(&restore.file, end), with(&folder.path().join("moved"), end)).unwrap();
            }
        }
        let engine = Engine::open(&restore.file).unwrap();
        is_left_alone(&folder, &restore, engine, || {
            restore.replace(&present, &restore.file, &folder.path().join("aside"))
        });
    }

    /// A service that finds it empty may take it for what is left of a file that was being made.
    #[cfg(unix)]
    #[test]
    fn a_file_that_was_made_in_the_place_of_an_empty_placeholder_is_not_replaced() {
        let (folder, restore) = backed_up();
        let (_placeholder, taken) = take_name(&restore.file).unwrap();
        fs::rename(&restore.file, folder.path().join("moved")).unwrap();
        let engine = Engine::open(&restore.file).unwrap();
        is_left_alone(&folder, &restore, engine, || {
            let put = restore.put_copy(&restore.file, &folder.path().join("aside"), taken, false);
            give_up_name(&restore.file);
            put
        });
    }

    /// No restore takes the file of this engine.
    #[cfg(unix)]
    fn is_left_alone(
        folder: &tempfile::TempDir,
        restore: &Restore,
        engine: Engine,
        run: impl FnOnce() -> Result<(), Trouble>,
    ) {
        charge(&engine, "new");
        let before = fs::read_dir(folder.path()).unwrap().count();
        let refused = run().unwrap_err();
        assert!(refused.to_string().contains("was made since it was looked at"), "{refused}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before);
        charge(&engine, "newer");
        engine.close().unwrap();
        let after = opening::to_look(&restore.file).unwrap();
        assert!(is_done(&after, "new") && is_done(&after, "newer"));
    }

    #[test]
    fn a_restore_that_fails_at_the_last_step_leaves_the_log_where_it_was() {
        let (folder, restore) = backed_up();
        let (aside, log) = (folder.path().join("aside"), with(&restore.file, "-wal"));
        fs::write(&log, "of a lost file").unwrap();
        let (_placeholder, taken) = take_name(&restore.file).unwrap();
        for has_before in [false, true] {
            let no_copy = folder.path().join("missing");
            put(&no_copy, &restore.file, &aside, taken, has_before).unwrap_err();
            assert_eq!(fs::read(&log).unwrap(), b"of a lost file");
            assert!(!is_there(&aside).unwrap() && !is_there(&with(&aside, "-wal")).unwrap());
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_restore_after_a_killed_one_is_for_the_users_of_the_backup() {
        use std::os::unix::fs::PermissionsExt;
        let (folder, restore) = backed_up();
        fs::set_permissions(&restore.backup, fs::Permissions::from_mode(0o640)).unwrap();
        drop(take_name(&restore.file).unwrap());
        let present = restore.look_at_present().unwrap();
        restore.replace(&present, &restore.file, &folder.path().join("aside")).unwrap();
        assert_eq!(fs::metadata(&restore.file).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn while_a_file_is_restored_that_was_lost_no_service_makes_one() {
        let (_folder, restore) = backed_up();
        take_name(&restore.file).unwrap();
        // What a creation that was killed leaves makes no difference.
        fs::write(with(&restore.file, "-unfinished"), b"").unwrap();
        assert!(matches!(Engine::open(&restore.file), Err(OpenError::NotIdemkv(_))));
        give_up_name(&restore.file);
        assert!(!is_there(&restore.file).unwrap());
    }

    #[test]
    fn a_restore_that_fails_gives_the_name_back() {
        let (folder, restore) = backed_up();
        let copy = with(&restore.file, ".restoring");
        fs::write(&copy, "of another").unwrap();
        let aside = folder.path().join("aside");
        restore.replace(&Present::Nothing, &restore.file, &aside).unwrap_err();
        assert!(!is_there(&restore.file).unwrap());
        fs::remove_file(&copy).unwrap();
        restore.replace(&Present::Nothing, &restore.file, &aside).unwrap();
        assert!(is_done(&opening::to_look(&restore.file).unwrap(), "old"));
        assert!(!is_there(&aside).unwrap());
    }

    /// A service of a newer version, say, that can open it.
    #[test]
    fn a_file_that_can_not_be_read_is_locked_while_it_is_replaced() {
        let (_folder, restore) = backed_up();
        fs::write(&restore.file, [7; 8_192]).unwrap();
        let present = restore.look_at_present().unwrap();
        assert!(matches!(Engine::open(&restore.file), Err(OpenError::Locked(_))));
        drop(present);
        let service = File::open(&restore.file).unwrap();
        service.lock().unwrap();
        let Err(refused) = restore.look_at_present() else { unreachable!("it is in use") };
        assert_eq!(refused.answer(), Answer::InUse);
    }

    /// A supervised service is faster than the last check.
    #[test]
    fn a_restore_is_done_though_a_service_has_the_file_by_then() {
        let (_folder, restore) = backed_up();
        let service = Engine::open(&restore.backup).unwrap();
        let mut said = Vec::new();
        assert_eq!(tell(&mut said, &restore.backup).unwrap(), Answer::Fine);
        assert!(String::from_utf8(said).unwrap().starts_with("restored: "));
        drop(service);
    }
}
