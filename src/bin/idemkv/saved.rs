//! An export: its first and last line, and policies as JSON.

use std::time::Duration;

use idemkv::{Durability, Engine, Policy, Recovery};
use serde_json::{Value, json};

use crate::hex;

/// What the first line of an export says of itself.
pub(crate) const VERSION: u64 = 2;

pub(crate) fn header(engine: &Engine) -> Value {
    json!({"idemkv_export": VERSION, "exported_ms": engine.now().as_millis()})
}

/// What the last line of an export says: how much is before it. An export without one was cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) policies: u64,
    pub(crate) keys: u64,
    /// Keys that could not be read.
    pub(crate) unread: u64,
}

impl End {
    pub(crate) fn line(self) -> Value {
        json!({"idemkv_export_ends": true, "policies": self.policies, "keys": self.keys, "unread": self.unread})
    }

    /// `None` if this is another line.
    pub(crate) fn read(line: &Value) -> Option<Self> {
        line.get("idemkv_export_ends")?;
        let number = |name: &str| line.get(name)?.as_u64();
        Some(Self { policies: number("policies")?, keys: number("keys")?, unread: number("unread")? })
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn policy(scope: &[u8], policy: &Policy) -> Value {
    let durability = match policy.get_durability() {
        Durability::Completions => json!("completions"),
        Durability::Relaxed(delay) => json!({"relaxed_ms": millis(delay)}),
        _ => json!("full"),
    };
    json!({
        "policy_of": hex::encode(scope),
        "ttl_ms": millis(policy.get_ttl()),
        "tombstone_ttl_ms": policy.get_tombstone_ttl().map(millis),
        "recovery": if policy.get_recovery() == Recovery::Rerun { "rerun" } else { "refuse" },
        "unresolved_ttl_ms": policy.get_unresolved_ttl().map(millis),
        "max_attempts": policy.get_max_attempts(),
        "lease_ms": policy.get_lease().map(millis),
        "durability": durability,
        "max_in_flight": policy.get_max_in_flight(),
    })
}

/// The scope and the policy that a line tells of; `None` if it makes no sense.
pub(crate) fn read_policy(line: &Value) -> Option<(Vec<u8>, Policy)> {
    let scope = hex::decode(line.get("policy_of")?.as_str()?)?;
    // `None` where the field is absent or null, an error where it is anything but a number.
    let number = |name: &str| match line.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(value) => value.as_u64().map(Some),
    };
    let span = |name: &str| Some(number(name)?.map(Duration::from_millis));
    let small = |name: &str| number(name)?.map_or(Some(None), |number| u32::try_from(number).ok().map(Some));
    let mut policy = Policy::default().ttl(span("ttl_ms")??);
    policy = policy.recovery(match line.get("recovery")?.as_str()? {
        "rerun" => Recovery::Rerun,
        "refuse" => Recovery::Refuse,
        _ => return None,
    });
    let durability = line.get("durability")?;
    policy = policy.durability(match durability.as_str() {
        Some("full") => Durability::Full,
        Some("completions") => Durability::Completions,
        Some(_) => return None,
        None => Durability::Relaxed(Duration::from_millis(durability.get("relaxed_ms")?.as_u64()?)),
    });
    policy = match span("unresolved_ttl_ms")? {
        Some(ttl) => policy.unresolved_ttl(ttl),
        None => policy.unresolved_forever(),
    };
    if let Some(ttl) = span("tombstone_ttl_ms")? {
        policy = policy.tombstone_ttl(ttl);
    }
    if let Some(attempts) = small("max_attempts")? {
        policy = policy.max_attempts(attempts);
    }
    if let Some(lease) = span("lease_ms")? {
        policy = policy.lease(lease);
    }
    if let Some(claims) = small("max_in_flight")? {
        policy = policy.max_in_flight(claims);
    }
    Some((scope, policy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_line_comes_back_as_it_was() {
        let end = End { policies: 1, keys: 2, unread: 3 };
        assert_eq!(End::read(&end.line()), Some(end));
        assert_eq!(End::read(&json!({"idemkv_export_ends": true, "keys": 2})), None);
        assert_eq!(End::read(&json!({"keys": 2, "policies": 1, "unread": 3})), None);
    }

    #[test]
    fn a_policy_comes_back_as_it_was() {
        let second = Duration::from_secs(1);
        let plain = Policy::default();
        let rich = plain.ttl(second).tombstone_ttl(9 * second).recovery(Recovery::Rerun).unresolved_forever();
        let rich = rich.lease(second).max_in_flight(7).durability(Durability::Relaxed(second));
        for of in [plain, rich, plain.max_attempts(3).recovery(Recovery::Rerun)] {
            assert_eq!(read_policy(&policy(b"\xff scope", &of)), Some((b"\xff scope".to_vec(), of)));
        }
        assert_eq!(read_policy(&json!({"policy_of": "00", "ttl_ms": "x"})), None);
    }
}
