//! Opening a file: to look, or to change it.

use std::path::Path;

use idemkv::Engine;

use crate::answer::{Answer, Trouble};
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
    Ok((Engine::open(path)?, planned))
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
    Ok(Engine::open(path)?)
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
