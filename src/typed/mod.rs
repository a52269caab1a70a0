//! What typed runs store and tell: results as JSON, and what can go wrong with them.

pub(crate) mod fault;
pub(crate) mod json;
