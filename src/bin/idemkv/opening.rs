//! Opening a file: to look, or to change it.

use std::io::Write;
use std::path::Path;

use idemkv::Engine;

use crate::answer::{Answer, Trouble, tell_done};
use crate::asking::Consent;
use crate::entry::{Entry, describe, summary};

/// Opens a file and changes nothing.
pub(crate) fn to_look(path: &Path) -> Result<Engine, Trouble> {
    Ok(Engine::options().read_only().open(path)?)
}

/// Shows what would be changed, asks, and opens the file for writing. `plan` makes the plan; it is
/// given the file as it is.
pub(crate) fn to_change<T>(
    path: &Path,
    consent: Consent,
    plan: impl FnOnce(&Engine) -> Result<(Vec<String>, T), Trouble>,
) -> Result<(Engine, T), Trouble> {
    let engine = to_look(path)?;
    let (mut lines, planned) = plan(&engine)?;
    lines.extend(found_interrupted(&engine));
    close(engine)?;
    consent.get(&lines)?;
    Ok((to_write(path)?, planned))
}

/// What an opening for writing changes by itself, if it is worth a question.
pub(crate) fn found_interrupted(engine: &Engine) -> Option<String> {
    let keys = engine.stats().found_interrupted;
    (keys > 0).then(|| {
        format!(
            "opening the file marks {keys} keys as interrupted, whose process died while they were in flight; \
             the service would mark them too"
        )
    })
}

/// Opens a file for writing without a question, if opening it changes nothing of any key.
pub(crate) fn to_change_nothing(path: &Path, consent: Consent) -> Result<Engine, Trouble> {
    let engine = to_look(path)?;
    let plan = found_interrupted(&engine);
    close(engine)?;
    if let Some(line) = plan {
        consent.get(&[line])?;
    }
    to_write(path)
}

/// Opens the file that was looked at. If it is gone by now, none is made in its place: a new one
/// would know nothing of what was done.
fn to_write(path: &Path) -> Result<Engine, Trouble> {
    Ok(Engine::options().existing().open(path)?)
}

/// Why a key was not changed: it is no longer what was shown.
pub(crate) fn changed(engine: &Engine, shown: &Entry) -> Trouble {
    let now = match engine.scope(&shown.scope).get(&shown.key) {
        Ok(status) => Entry::new(&shown.scope, &shown.key, shown.hash, status),
        Err(error) => return error.into(),
    };
    let Some(now) = now else {
        return Trouble::new(Answer::Absent, "the key was over before it could be changed");
    };
    Trouble::refused(format_args!(
        "{} has changed since it was shown, and nothing was done: now it is {}",
        describe(&now),
        summary(&now)
    ))
}

pub(crate) fn close(engine: Engine) -> Result<(), Trouble> {
    engine.close().map(drop).map_err(Trouble::refused)
}

/// Closes the file after a change, and says what became of that: `tell` is given what it came to.
/// A close that fails takes nothing back, so the change is told in any case.
pub(crate) fn close_after<T, W: Write>(
    engine: Engine,
    changed: Result<T, Trouble>,
    out: &mut W,
    tell: impl FnOnce(T, &mut W) -> Result<Answer, Trouble>,
) -> Result<Answer, Trouble> {
    let closed = engine.close();
    let answer = changed.and_then(|done| tell_done(out, |out| tell(done, out)));
    let Err(error) = closed else { return answer };
    let Ok(Answer::Fine) = answer else {
        eprintln!("idemkv: the file could not be closed: {error}");
        return answer;
    };
    Err(Trouble::new(
        Answer::DoneBut,
        format_args!(
            "it was done, but the file could not be closed: {error}. Look at it before you do it again: what was \
             acknowledged is in the log, and the next opening takes it from there"
        ),
    ))
}

/// For the tests of what changes keys.
#[cfg(test)]
pub(crate) mod tests {
    use idemkv::{Begin, Claim, Fingerprint, Recovery};
    use tempfile::TempDir;

    use super::*;

    pub(crate) fn open(folder: &TempDir) -> Engine {
        Engine::open(folder.path().join("x.idem")).unwrap()
    }

    fn claim(engine: &Engine) -> Claim {
        match engine.scope("charges").begin("key", Fingerprint::of("request")).unwrap() {
            Begin::Fresh(claim) => claim,
            Begin::InFlight(_) | Begin::Done(_) => unreachable!("it is interrupted"),
        }
    }

    #[test]
    fn a_file_that_is_gone_by_the_answer_is_not_made_anew() {
        let (folder, _) = shown();
        let (file, moved) = (folder.path().join("x.idem"), folder.path().join("moved.idem"));
        let plan = |_: &Engine| {
            std::fs::rename(&file, &moved).unwrap();
            Ok((Vec::new(), ()))
        };
        let refused = to_change(&file, Consent { yes: true }, plan).unwrap_err();
        assert_eq!(refused.answer(), Answer::Damaged, "its log is there: {refused}");
        assert!(moved.exists() && !file.exists());
    }

    /// What was acknowledged is in the log.
    #[cfg(feature = "sim")]
    #[test]
    fn what_became_of_a_change_is_told_though_the_file_can_not_be_closed() {
        let engine = || {
            let disk = idemkv::sim::SimDisk::new();
            let engine = Engine::options().disk(&disk).stepped().open("x.idem").unwrap();
            retry(&engine);
            disk.fail_syncs(Some(""));
            engine
        };
        let mut is_told = false;
        let mut out = Vec::new();
        let done = close_after(engine(), Ok(()), &mut out, |(), _| {
            is_told = true;
            Ok(Answer::Fine)
        });
        assert!(is_told);
        assert_eq!(done.unwrap_err().answer(), Answer::DoneBut);
        let refused =
            close_after(engine(), Err(Trouble::refused("it is done")), &mut out, |(), _| Ok(Answer::Fine));
        let refused = refused.unwrap_err();
        assert_eq!((refused.answer(), refused.to_string().as_str()), (Answer::Refused, "it is done"));
    }

    /// A retry, that was lost.
    pub(crate) fn lose(engine: &Engine) {
        drop(claim(engine));
    }

    /// A retry, that took effect.
    pub(crate) fn retry(engine: &Engine) {
        claim(engine).complete("charged").unwrap();
    }

    /// A file with a key that was interrupted and may run again, and what an operator is shown of
    /// the key.
    pub(crate) fn shown() -> (TempDir, Entry) {
        let folder = tempfile::tempdir().unwrap();
        let engine = open(&folder);
        engine.set_policy("charges", engine.policy().recovery(Recovery::Rerun)).unwrap();
        lose(&engine);
        close(engine).unwrap();
        let looking = to_look(&folder.path().join("x.idem")).unwrap();
        let scope = looking.scope("charges");
        let (hash, status) = (scope.key_hash("key").unwrap(), scope.get("key").unwrap());
        (folder, Entry::new(b"charges", b"key", hash, status).unwrap())
    }
}
