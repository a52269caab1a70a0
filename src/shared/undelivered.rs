//! What a begin comes to, before its caller has it.

use super::claim::SharedClaim;
use super::core::SharedHandle;
use super::granting::{Granting, Stands};
use super::refusal::Refusal;
use super::statements::end::Standing;
use crate::attempt::Attempt;
use crate::clock::Deadline;
use crate::engine::handles::claim::Begin;
use crate::sync::Arc;

/// A claim that was granted, and that its caller does not have yet. A drop withdraws it: the key
/// becomes what it was.
pub(super) struct Undelivered<'a> {
    pub(super) granting: Granting<'a>,
    pub(super) stands: Stands,
    pub(super) attempt: Attempt,
    pub(super) standing: Option<Standing>,
    pub(super) resolves: bool,
}

/// The answer to a begin.
pub(super) enum Answered<'a> {
    Granted(Box<Undelivered<'a>>),
    Without(Begin),
}

impl Undelivered<'_> {
    /// The claim is its caller's, unless the engine was closed meanwhile.
    pub(super) fn deliver(mut self, handle: &Arc<SharedHandle>) -> Result<SharedClaim, Refusal> {
        let nonce = self.granting.arrives()?;
        let mut claim = SharedClaim::new(handle, self.attempt, nonce, self.resolves);
        claim.standing = self.standing;
        claim.session = self.granting.session();
        Ok(claim)
    }

    /// Withdraws it now, as far as the store answers.
    async fn withdraw(mut self, deadline: Deadline) {
        self.granting.withdraw(deadline).await;
    }
}

impl<'a> Answered<'a> {
    /// A first claim on a key.
    pub(super) fn granted(granting: Granting<'a>, stands: Stands, attempt: Attempt) -> Self {
        Self::Granted(Box::new(Undelivered { granting, stands, attempt, standing: None, resolves: false }))
    }

    pub(super) fn deliver(self, handle: &Arc<SharedHandle>) -> Result<Begin, Refusal> {
        match self {
            Self::Granted(claim) => Ok(Begin::Fresh(claim.deliver(handle)?.into())),
            Self::Without(begin) => Ok(begin),
        }
    }

    /// Whether it is a claim that was granted and is over by now.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Granted(claim) => !claim.granting.is_good(claim.stands),
            Self::Without(_) => false,
        }
    }

    pub(super) async fn withdraw(self, deadline: Deadline) {
        match self {
            Self::Granted(claim) => claim.withdraw(deadline).await,
            Self::Without(_) => {}
        }
    }
}
