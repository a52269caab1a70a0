//! `idemkv import`: a new file of an export.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use idemkv::{Begin, Claim, CommitMode, Completion, Engine, Fingerprint, Policy};
use serde_json::Value;

use crate::answer::{Answer, Trouble, tell_done};
use crate::saved::End;
use crate::working::{Working, shown};
use crate::{hex, saved, verify};

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The export; - for the standard input
    export: PathBuf,
    /// The new file; it must not exist
    file: PathBuf,
    /// Take an export that was cut off, or that lacks keys which could not be read: operations
    /// whose keys are missing run again
    #[arg(long)]
    incomplete: bool,
}

/// What was imported.
#[derive(Debug, Default)]
struct Imported {
    /// The last line, once it was read.
    end: Option<End>,
    keys: u64,
    results: u64,
    interrupted: u64,
    policies: Vec<(Vec<u8>, Policy)>,
    over: u64,
}

impl Import {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        // Filled elsewhere and put in place as a backup is, whole or not at all.
        let folder = self.folder()?;
        let made = self.fill(&folder.join("new.idem"));
        let imported = made.and_then(|(engine, imported)| {
            engine.backup(&self.file).map_err(Trouble::refused)?;
            // It goes with its folder.
            drop(engine.close());
            Ok(imported)
        });
        let removed = fs::remove_dir_all(&folder);
        let Imported { results, interrupted, policies, over, .. } = imported?;
        tell_done(out, |out| {
            writeln!(
                out,
                "{results} results, {interrupted} interrupted keys, {} policies; {over} were over",
                policies.len()
            )?;
            writeln!(
                out,
                "step keys of the new file are others than those of the old one; fences and attempts start anew"
            )?;
            let (answer, checked) = verify::check(&self.file)?;
            verify::show(out, &checked.map_err(|error| Trouble::new(answer, error))?)?;
            removed?;
            Ok(answer)
        })
    }

    /// A folder beside the new file.
    fn folder(&self) -> Result<PathBuf, Trouble> {
        if self.file.try_exists()? {
            return Err(Trouble::refused(format_args!("{} exists; give another name", self.file.display())));
        }
        let mut name = self.file.as_os_str().to_owned();
        name.push(".importing");
        let folder = PathBuf::from(name);
        fs::create_dir(&folder).map_err(|error| {
            Trouble::refused(format_args!(
                "{}: {error}; if an import was killed, remove it",
                folder.display()
            ))
        })?;
        Ok(folder)
    }

    fn fill(&self, path: &Path) -> Result<(Engine, Imported), Trouble> {
        // Nothing is lost if the machine stops: the import starts again.
        let options = Engine::options().commit_mode(CommitMode::Buffered).max_body_bytes(16 << 20);
        let options = options.log_segment_bytes(128 << 20).max_key_bytes(4_096);
        // An export does not say for how long an interrupted key is remembered.
        let engine = options.policy(Policy::default().unresolved_forever()).open(path)?;
        let lines: Box<dyn BufRead> = if self.export.as_os_str() == "-" {
            Box::new(io::stdin().lock())
        } else {
            Box::new(BufReader::new(File::open(&self.export)?))
        };
        let (mut imported, mut exported_ms) = (Imported::default(), None);
        let working = Working::counting(format!("writes keys to {}", shown(&self.file)));
        for (number, text) in (1_u64..).zip(lines.lines()) {
            working.count();
            let text = text?;
            import_line(&engine, &text, &mut exported_ms, &mut imported)
                .map_err(|what| Trouble::refused(format_args!("line {number}: {what}")))?;
        }
        drop(working);
        exported_ms.ok_or_else(|| Trouble::refused("the export is empty"))?;
        if !self.incomplete {
            imported.is_whole().map_err(Trouble::refused)?;
        }
        // After the keys: one that is interrupted is stored with every durability of its scope.
        for (scope, policy) in &imported.policies {
            drop(engine.set_policy(scope, *policy).map_err(Trouble::refused)?);
        }
        Ok((engine, imported))
    }
}

impl Imported {
    /// Whether the last line was there, and says the same.
    fn is_whole(&self) -> Result<(), String> {
        let end = self.end.ok_or(
            "the export has no last line, so it was cut off, and keys are missing: export again, or give --incomplete",
        )?;
        let read = End { policies: self.policies.len() as u64, keys: self.keys, ..end };
        if read != end {
            return Err(format!(
                "the export was written with {} keys and {} policies, and has {} and {}",
                end.keys, end.policies, read.keys, read.policies
            ));
        }
        if end.unread > 0 {
            return Err(format!(
                "{} keys could not be read for this export, and are missing in it: take a backup, or give --incomplete",
                end.unread
            ));
        }
        Ok(())
    }
}

/// Takes one line: the header, a policy, a key, or the last one.
fn import_line(
    engine: &Engine,
    text: &str,
    exported_ms: &mut Option<u64>,
    imported: &mut Imported,
) -> Result<(), String> {
    let line: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let Some(now_ms) = *exported_ms else {
        *exported_ms =
            Some(read_header(&line).ok_or("this is no export of idemkv's, or of another version")?);
        return Ok(());
    };
    if imported.end.is_some() {
        return Err("it follows the last line of the export".into());
    }
    if let Some(end) = End::read(&line) {
        imported.end = Some(end);
        return Ok(());
    }
    if line.get("policy_of").is_none() {
        imported.keys += 1;
        return import_key(engine, &line, now_ms, imported);
    }
    imported.policies.push(saved::read_policy(&line).ok_or("this is no policy")?);
    Ok(())
}

fn read_header(line: &Value) -> Option<u64> {
    (line.get("idemkv_export")?.as_u64()? == saved::VERSION).then(|| line.get("exported_ms")?.as_u64())?
}

/// A field of bytes: text, or hexadecimal under a name with `_hex` behind.
fn bytes(line: &Value, name: &str) -> Option<Vec<u8>> {
    match line.get(name) {
        Some(text) => text.as_str().map(|text| text.as_bytes().to_vec()),
        None => line.get(format!("{name}_hex")).and_then(Value::as_str).and_then(hex::decode),
    }
}

fn import_key(engine: &Engine, line: &Value, now_ms: u64, imported: &mut Imported) -> Result<(), String> {
    let lacks = |name: &str| format!("the field `{name}` is missing, or makes no sense");
    let scope = bytes(line, "scope").ok_or_else(|| lacks("scope"))?;
    let key = bytes(line, "key").ok_or_else(|| lacks("key"))?;
    let state = line.get("state").and_then(Value::as_str).ok_or_else(|| lacks("state"))?;
    if state == "in-flight" {
        // Its token is good in the old file alone, and a list of it has no fingerprint.
        return Err(
            "the key is in flight: wait for its claim, or for the end of its lease, and export again".into(),
        );
    }
    let fingerprint = bytes(line, "fingerprint").and_then(|text| hex::decode(str::from_utf8(&text).ok()?));
    let fingerprint: [u8; 32] =
        fingerprint.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| lacks("fingerprint"))?;
    // How long from the moment of the export; the time since then counts for the key.
    let left = |name: &str| {
        let until = line.get(name).and_then(Value::as_u64).ok_or_else(|| lacks(name))?;
        Ok::<_, String>(Duration::from_millis(until.saturating_sub(now_ms)))
    };
    let claim = || match engine.scope(&scope).begin(&key, Fingerprint::from_bytes(fingerprint)) {
        Ok(Begin::Fresh(claim)) => Ok(claim),
        Ok(Begin::InFlight(_) | Begin::Done(_)) => Err("the key is there twice".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    match state {
        "interrupted" => {
            let mut claim = claim()?;
            if let Some(progress) = bytes(line, "progress") {
                claim.save_progress(&progress).map_err(|error| error.to_string())?;
            }
            drop(claim);
            imported.interrupted += 1;
        }
        "done" | "expired" => {
            let (replayed, remembered) = (left("expires_ms")?, left("remembered_until_ms")?);
            if remembered.is_zero() {
                imported.over += 1;
                return Ok(());
            }
            // No shorter than the engine takes.
            let replayed = replayed.max(Duration::from_millis(1));
            let how = Completion::new().ttl(replayed).tombstone_ttl(remembered.max(replayed));
            complete(claim()?, line, how)?;
            imported.results += 1;
        }
        other => return Err(format!("there is no state `{other}`")),
    }
    Ok(())
}

fn complete(claim: Claim, line: &Value, how: Completion) -> Result<(), String> {
    let body = bytes(line, "body");
    let how = if body.is_some() { how } else { how.discard_body() };
    let body = body.unwrap_or_default();
    match line.get("outcome").and_then(Value::as_str) {
        Some("success") => claim.complete_with(&body, how).map(drop).map_err(|error| error.to_string()),
        Some("failure") => claim.fail_with(&body, how).map(drop).map_err(|error| error.to_string()),
        _ => Err("the field `outcome` is missing, or makes no sense".to_owned()),
    }
}
