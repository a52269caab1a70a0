//! Typed runs: results as JSON, and their errors.

pub(crate) mod json;
pub(crate) mod run_error;
