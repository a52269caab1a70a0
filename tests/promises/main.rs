//! What the repository says of itself is so: tests, files and sections that documents refer to,
//! and the order of the sources.

#![allow(missing_docs, clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]

mod documents;
mod rings;
