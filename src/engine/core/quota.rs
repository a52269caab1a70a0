//! The quota of one claim: its place among the claims out, and its reservation in the log.

use super::policies::Policies;
use crate::attempt::Attempt;
use crate::sync::Arc;
use crate::wal::{LogSpace, Reservation};

/// What a claim takes while it is out: a place among those that may be, and log space.
#[derive(Debug)]
pub(crate) struct Quota {
    pub(in crate::engine) reservation: Reservation,
    /// The scope that counts it.
    pub(in crate::engine) scope: Option<Box<[u8]>>,
}

impl Quota {
    /// The share of a claim that was handed over before the file was opened. It reserves space for
    /// its end when it is taken up.
    pub(super) fn of_standing(attempt: &Attempt, policies: &Policies, space: &Arc<LogSpace>) -> Self {
        let scope = policies.reenter(attempt.scope()).then(|| attempt.scope().into());
        Self { reservation: Reservation::none(space), scope }
    }
}
