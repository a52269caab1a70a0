//! Opening a file: to look, or to change it.

use std::path::Path;

use idemkv::Engine;

use crate::answer::Trouble;
use crate::asking::Consent;

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

pub(crate) fn close(engine: Engine) -> Result<(), Trouble> {
    engine.close().map(drop).map_err(Trouble::refused)
}
