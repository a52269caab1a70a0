//! The engine: joins index, log, store and clock, and owns the background work.
//!
//! `core` is what an open engine is made of. `handles` is what callers hold, `calls` what they ask
//! for, `background` what the engine does by itself, and `life` how a file is opened and closed.

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
