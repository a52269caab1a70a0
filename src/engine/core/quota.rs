//! The quota of one claim: its place among the claims in flight, and its reservation in the log.

use crate::attempt::Attempt;
use crate::attempt::place::Place;
use crate::engine::common::policies::Policies;
use crate::sync::Arc;
use crate::wal::{LogSpace, Reservation};

/// A claim's part of the limits while it is in flight: a place among the claims, and log space.
#[derive(Debug)]
pub(crate) struct Quota {
    pub(in crate::engine) reservation: Reservation,
    pub(in crate::engine) place: Place,
}

impl Quota {
    /// Nothing.
    pub(in crate::engine) fn none(space: &Arc<LogSpace>) -> Self {
        Self { reservation: Reservation::none(space), place: Place::default() }
    }

    /// The quota of a claim that was handed over before the file was opened. It reserves space
    /// for its end when the claim is resumed.
    pub(super) fn of_standing(attempt: &Attempt, policies: &Policies, space: &Arc<LogSpace>) -> Self {
        let scope = policies.reenter(attempt.scope()).then(|| attempt.scope().into());
        Self { reservation: Reservation::none(space), place: Place { is_counted: true, scope } }
    }
}
