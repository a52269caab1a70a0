//! Progress of a claim, and the renewal of its lease.

use super::claim::SharedClaim;
use super::error::SharedError;
use super::statements::end::EndAsk;
use crate::attempt::progress::Progress;
use crate::task::caller::park_on;

impl SharedClaim {
    /// Saves how far the operation has come, durably: the next attempt finds it.
    ///
    /// # Errors
    ///
    /// When it is longer than a body may be, the claim is no longer good, or the store does not
    /// answer in time.
    pub fn save_progress(&mut self, note: impl AsRef<[u8]>) -> Result<(), SharedError> {
        park_on(self.save_progress_async(note))
    }

    /// [`save_progress`](Self::save_progress) for tasks.
    ///
    /// # Errors
    ///
    /// As for [`save_progress`](Self::save_progress).
    pub async fn save_progress_async(&mut self, note: impl AsRef<[u8]>) -> Result<(), SharedError> {
        let (note, max) = (note.as_ref(), self.core().options.max_body_bytes);
        if note.len() > max {
            return Err(SharedError::BodyTooLarge { len: note.len(), max });
        }
        // The same bytes again change nothing, so an unknown outcome is simply tried again.
        self.carry_out(EndAsk::save_progress(self.row(), note.into()), None).await?;
        self.attempt.set_progress(Progress::new(note, &self.core().budget));
        Ok(())
    }

    /// Starts the claim's lease again.
    ///
    /// # Errors
    ///
    /// When the claim is no longer good, or the store does not answer in time.
    pub fn renew(&mut self) -> Result<(), SharedError> {
        park_on(self.renew_async())
    }

    /// [`renew`](Self::renew) for tasks.
    ///
    /// # Errors
    ///
    /// As for [`renew`](Self::renew).
    pub async fn renew_async(&mut self) -> Result<(), SharedError> {
        let renewed = self.carry_out(EndAsk::renew(self.row()), None).await?;
        self.attempt.renew(renewed.at);
        Ok(())
    }
}
