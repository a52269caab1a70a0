//! Progress of a claim, and the renewal of its lease.

use super::claim::SharedClaim;
use super::statements::end::EndAsk;
use crate::attempt::progress::Progress;
use crate::engine::common::counters::Counters;
use crate::error::ClaimError;

impl SharedClaim {
    /// Saves how far the operation has come, durably: the next attempt finds it.
    pub(crate) async fn save_progress(&mut self, note: &[u8]) -> Result<(), ClaimError> {
        self.core().check()?;
        let max = self.core().options.max_body_bytes;
        if note.len() > max {
            return Err(ClaimError::BodyTooLarge { len: note.len(), max });
        }
        // The same bytes again change nothing, so an unknown outcome is simply tried again.
        self.carry_out(EndAsk::save_progress(self.row(), note.into()), None).await?;
        Counters::count(&self.core().counters.progress_saved);
        self.attempt.set_progress(Progress::new(note, &self.core().budget));
        Ok(())
    }

    /// Starts the claim's lease again.
    pub(crate) async fn renew(&self) -> Result<(), ClaimError> {
        self.core().check()?;
        let renewed = self.carry_out(EndAsk::renew(self.row()), None).await?;
        self.attempt.renew(renewed.at);
        Ok(())
    }
}
