//! Which key a subcommand is about.

use clap::Args;
use idemkv::Engine;

use crate::answer::{Answer, Trouble};
use crate::entry::{Entry, describe};
use crate::names;

/// A key by its name, or by its short hash.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(crate) struct Selection {
    /// The key, as this command prints it: with \\, \xNN and \u{N} for what a terminal can't show
    #[arg(required_unless_present = "hash", conflicts_with = "hash")]
    key: Option<String>,
    /// The key's scope, written alike; without it the default scope, or with --hash any
    #[arg(long)]
    scope: Option<String>,
    /// The key's short hash, as logs and metrics show it: 8 hexadecimal digits
    #[arg(long, value_name = "HASH")]
    hash: Option<String>,
}

impl Selection {
    /// The key that is meant.
    ///
    /// # Errors
    ///
    /// When there is none, or its hash is that of several.
    pub(crate) fn find(&self, engine: &Engine) -> Result<Entry, Trouble> {
        let parse = |text: &str| names::parse(text).map_err(Trouble::refused);
        let scope = self.scope.as_deref().map(parse).transpose()?;
        if let Some(hash) = &self.hash {
            return find_by_hash(engine, scope.as_deref(), hash.trim_start_matches('#'));
        }
        let key = parse(self.key.as_deref().unwrap_or_default())?;
        let scope = engine.scope(scope.unwrap_or_default());
        let hash = scope.key_hash(&key).map_err(Trouble::refused)?;
        let found = Entry::new(scope.name(), &key, hash, scope.get(&key)?);
        found.ok_or_else(|| {
            let (key, scope) = (names::escaped(&key), names::escaped(scope.name()));
            let other = if self.scope.is_none() { "; --scope names another" } else { "" };
            Trouble::new(
                Answer::Absent,
                format_args!("there is no key \"{key}\" in scope \"{scope}\"{other}"),
            )
        })
    }
}

fn find_by_hash(engine: &Engine, scope: Option<&[u8]>, hash: &str) -> Result<Entry, Trouble> {
    let (mut found, mut unread): (Vec<Entry>, Option<Trouble>) = (Vec::new(), None);
    for entry in engine.entries() {
        match entry {
            Ok(entry) => {
                let is_it = entry.key_hash().to_string().eq_ignore_ascii_case(hash)
                    && scope.is_none_or(|scope| scope == entry.scope());
                found.extend(Entry::of(&entry).filter(|_| is_it));
            }
            Err(error) => unread = Some(error.into()),
        }
    }
    match (found.len(), unread) {
        (0, Some(trouble)) => {
            let said =
                format!("no key that can be read has the hash {hash}, but some can't be read: {trouble}");
            Err(Trouble::new(trouble.answer(), said))
        }
        (0, None) => Err(Trouble::new(Answer::Absent, format_args!("there is no key with the hash {hash}"))),
        (1, _) => found.pop().ok_or_else(|| Trouble::refused("the key is gone")),
        _ => {
            let names = found.iter().map(describe).collect::<Vec<_>>().join("\n- ");
            Err(Trouble::refused(format_args!(
                "several keys have the hash {hash}; name one of them:\n- {names}"
            )))
        }
    }
}
