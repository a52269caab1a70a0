//! Typed runs: results as JSON, and their errors.

pub(crate) mod fault;
pub(crate) mod json;
