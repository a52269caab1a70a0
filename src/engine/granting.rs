//! A claim on its way to its caller: in the index, and not yet, or not yet durably, in the log.

use super::claim::Claim;
use super::core::{Core, ended_by};
use super::publisher::Op;
use crate::attempt::Ended;
use crate::caller::Caller;
use crate::codec::{self, Entry};
use crate::error::CommitError;
use crate::index::Slot;
use crate::sync::Arc;
use crate::wal::frame::entry_bytes_max;

/// Where a task gives up waiting for its claim, this is dropped, and the claim is given back: nobody has run anything.
#[derive(Debug)]
pub(super) struct Granting {
    /// `None` once it has arrived, or was taken back.
    claim: Option<Claim>,
    /// What the key was; `None` once the log may know of the claim.
    before: Option<Slot>,
}

impl Granting {
    pub(super) fn new(claim: Claim, before: Slot) -> Self {
        Self { claim: Some(claim), before: Some(before) }
    }

    /// Makes the grant durable; `false` where its lease ran out before the log had it, so that it is none.
    ///
    /// By then the key may have been granted again, and the log must get the claims of a key in the order of their fences.
    pub(super) async fn log(&mut self, core: &Core, caller: Caller) -> Result<bool, CommitError> {
        let Some(claim) = &mut self.claim else { unreachable!("a claim is granted once") };
        let attempt = Arc::clone(claim.of());
        let mut entry = Vec::new();
        codec::encode_into(&Entry::Intent(attempt.row()), &mut entry);
        let cost = entry_bytes_max(entry.len()) as u64;
        let op = Op::Granted(Arc::clone(&attempt));
        // Without a lease nobody else can have the key.
        let may = || attempt.lease.is_none() || core.is_good(&attempt);
        let appended = core.commit.append(caller, &entry, op, cost, core.options.patience, may).await;
        let settled = match appended {
            Ok(Some(ticket)) => {
                claim.spend(cost);
                self.before = None;
                core.commit.settled(caller, &ticket).await.map(|()| true)
            }
            // Dropped with what the key was before, this puts it back.
            Ok(None) => Ok(false),
            Err(error) => {
                // Nothing was written: the key is as it was before.
                self.put_back(core);
                Err(error)
            }
        };
        settled.inspect_err(|error| {
            attempt.end(ended_by(error));
            if let Some(claim) = self.claim.take() {
                claim.forfeit();
            }
        })
    }

    fn put_back(&mut self, core: &Core) {
        if let (Some(before), Some(claim)) = (self.before.take(), &self.claim) {
            core.put_back(claim.of(), before);
        }
    }

    /// It has arrived.
    pub(super) fn into_claim(mut self) -> Option<Claim> {
        self.claim.take()
    }
}

impl Drop for Granting {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        if let Some(before) = self.before.take() {
            let attempt = Arc::clone(claim.of());
            let handle = claim.handle();
            claim.forfeit();
            handle.core().put_back(&attempt, before);
            attempt.end(Ended::Vacated);
            return;
        }
        claim.give_up();
    }
}
