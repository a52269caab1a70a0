//! How calls wait: threads and tasks, deadlines, and the notifiers of the engine's threads.

pub(crate) mod caller;
pub(crate) mod notifier;
#[cfg_attr(not(feature = "serde"), allow(dead_code, reason = "for `Scope::run`"))]
pub(crate) mod reply;
pub(crate) mod timers;
pub(crate) mod wait_list;
pub(crate) mod wait_queue;
