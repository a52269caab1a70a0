//! The engine: joins index, log, store and clock, and owns the background work.
//!
//! `handles` has the types that callers hold, and `common` what any core behind them uses. The
//! rest is the core on a file: `core` has its parts, `file` its side of each handle, `calls` the
//! calls, `background` its own work, and `life` the opening and closing of a file.

mod background;
mod calls;
pub(crate) mod common;
mod core;
mod file;
pub(crate) mod handles;
mod life;
mod unwind;

pub use self::core::modes::{CommitMode, Verify};
pub use self::core::options::Options;
#[cfg(feature = "sim")]
pub use self::core::stepped::Stepped;
pub use common::completion::Completion;
pub use handles::claim::{Begin, Claim};
pub use handles::end_many::End;
pub use handles::ending::Ending;
pub use handles::engine::{Closed, Engine};
pub use handles::entries::{Entries, KeyEntry};
pub use handles::file_only::Backup;
pub use handles::lists::{ListPosition, Listing, OpenKey};
pub use handles::pending::Pending;
#[cfg(feature = "serde")]
pub use handles::run::Running;
pub use handles::scope::Scope;
pub use handles::stats::Stats;
pub use handles::token::ClaimToken;
pub use life::check::{Checked, Verdict};
