//! The engine: joins index, log, store and clock, and owns the background work.
//!
//! `core` has the parts of an open engine, `handles` the types that callers hold, `calls` their
//! calls, `background` the engine's own work, and `life` the opening and closing of a file.

mod background;
mod calls;
mod core;
mod handles;
mod life;
mod unwind;

pub use self::core::modes::{CommitMode, Verify};
pub use self::core::options::Options;
#[cfg(feature = "sim")]
pub use background::worker::Stepped;
pub use calls::end_many::End;
pub use calls::ending::Ending;
pub use calls::entries::{Entries, KeyEntry};
#[cfg(feature = "serde")]
pub use calls::run::Running;
pub use handles::claim::{Begin, Claim};
pub use handles::completion::Completion;
pub use handles::engine::{Closed, Engine};
pub use handles::lists::{ListPosition, Listing, OpenKey};
pub use handles::pending::{Pending, Waited};
pub use handles::scope::Scope;
pub use handles::stats::Stats;
pub use handles::token::ClaimToken;
pub use life::backup::Backup;
pub use life::check::{Checked, Verdict};
