//! Notifications: processes are told of keys that they wait for, many keys at a time and after
//! the commit. A notification in every completion would make commits wait for each other.

use std::rc::Rc;

use tokio_postgres::types::Type;

use super::columns::Params;
use super::connection::Link;
use super::core::Core;
use crate::key::Digest;
use crate::sync::Arc;

fn channel(schema: &str) -> String {
    format!("idemkv:{schema}")
}

/// The schema's name was checked.
pub(super) fn listen_sql(schema: &str) -> String {
    format!("LISTEN \"{}\"", channel(schema))
}

/// Digits of one key in a notification.
const DIGITS: usize = 32;
/// Keys in one notification, which may have 8,000 bytes.
const KEYS_MAX: usize = 240;

/// A notification has arrived. Bytes that make no sense are passed over: the polls find out.
pub(super) fn heard(core: &Core, payload: &str) {
    let keys = payload.as_bytes().chunks_exact(DIGITS);
    for key in keys.filter_map(|key| std::str::from_utf8(key).ok()) {
        if let Ok(digest) = u128::from_str_radix(key, 16) {
            core.watches.told(Digest::from_u128(digest));
        }
    }
}

/// Tells other processes of a key. The change is committed.
pub(super) fn tell(core: &Arc<Core>, digest: Digest) {
    if !core.outbox.put(digest) {
        return;
    }
    let shared = Arc::clone(core);
    core.spawn(Box::new(move || Box::pin(async move { send(&shared).await })));
}

async fn send(core: &Arc<Core>) {
    let shared = Arc::clone(core);
    let sending = core.errand(core.deadline(), async move |link: Rc<Link>| {
        let keys = shared.outbox.take();
        let text = |keys: &[Digest]| {
            let digits: Vec<String> = keys.iter().map(|key| format!("{:032x}", key.as_u128())).collect();
            digits.concat()
        };
        let notes: Vec<String> = keys.chunks(KEYS_MAX).map(text).collect();
        let params =
            Params::default().with(channel(&shared.options.schema), Type::TEXT).with(notes, Type::TEXT_ARRAY);
        link.once("SELECT pg_notify($1, note) FROM unnest($2) note", &params).await
    });
    // What gets lost, the polls find out. An errand that never ran leaves its keys.
    if sending.await.is_err() {
        drop(core.outbox.take());
    }
}
