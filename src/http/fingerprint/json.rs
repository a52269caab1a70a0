//! JSON with its keys in order and without white space.
//!
//! No value is read as a number: two amounts that a float can't tell apart must not become the
//! same.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Each level is parsed once more for those above it, so this bounds the work.
const DEPTH_MAX: usize = 16;

pub(super) fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let essence = essence.to_ascii_lowercase();
    essence == b"application/json" || essence.ends_with(b"+json")
}

/// The body with sorted keys. `None` where it is no JSON, or not such that this says all of it.
pub(super) fn sorted(body: &[u8]) -> Option<Vec<u8>> {
    let mut sorted = Vec::with_capacity(body.len());
    put(serde_json::from_slice(body).ok()?, DEPTH_MAX, &mut sorted)?;
    Some(sorted)
}

fn put(value: &RawValue, depth: usize, to: &mut Vec<u8>) -> Option<()> {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'{') => {
            let Members(mut members) = serde_json::from_str(text).ok()?;
            members.sort_by(|(one, _), (other, _)| one.cmp(other));
            let is_twice =
                |pair: &[(String, &RawValue)]| matches!(pair, [(one, _), (other, _)] if one == other);
            if members.windows(2).any(is_twice) {
                return None;
            }
            list(to, *b"{}", &members, |(key, value), to| {
                serde_json::to_writer(&mut *to, key).ok()?;
                to.push(b':');
                put(value, depth.checked_sub(1)?, to)
            })
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            list(to, *b"[]", &items, |item, to| put(item, depth.checked_sub(1)?, to))
        }
        _ => {
            to.extend(text.as_bytes());
            Some(())
        }
    }
}

fn list<T>(
    to: &mut Vec<u8>,
    [open, close]: [u8; 2],
    items: &[T],
    put: impl Fn(&T, &mut Vec<u8>) -> Option<()>,
) -> Option<()> {
    to.push(open);
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            to.push(b',');
        }
        put(item, to)?;
    }
    to.push(close);
    Some(())
}

/// The members of an object as they are written: none is lost because its key comes twice.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members<'de>, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(List)
    }
}
