//! A completion in the caller's own transaction: its rows and the result are committed together.

use super::claim::SharedClaim;
use super::complete::Result_;
use super::listener;
use super::open_tx::{Tx, asked};
use super::refusal::Refusal;
use super::row::Columns;
use super::sql::Shape;
use super::statement::Statement;
use super::statements::end::{EndAsk, Ended};
use crate::Timestamp;
use crate::engine::common::completion::Completion;
use crate::engine::common::end_request::NewResult;
use crate::engine::handles::claim::Claim;
use crate::error::{ClaimError, EndError, FailureKind, StoreFailure};
use crate::record::{Outcome, Record};
use crate::sync::Arc;

/// A claim whose completion is part of a transaction that is still open.
///
/// Say what became of the transaction. A value that is dropped is not lost: the store looks at
/// the key once the transaction is over. The key is then done, or interrupted.
#[must_use = "say whether the transaction was committed"]
pub struct CompletedInTx {
    claim: SharedClaim,
    result: Result_,
    completed: Timestamp,
    is_wanted: bool,
}

impl SharedClaim {
    /// Completes the claim within a transaction of the caller's.
    pub(crate) async fn complete_in_tx(
        self,
        mut transaction: Tx<'_>,
        body: &[u8],
    ) -> Result<CompletedInTx, EndError> {
        let result = NewResult { outcome: Outcome::Success, body, completion: Completion::new() };
        let result = match self.result(result) {
            Ok(result) => result,
            Err(reason) => return Err(self.refused(reason)),
        };
        if let Err(reason) = self.core().check() {
            return Err(self.refused(reason.into()));
        }
        let end = EndAsk::complete(
            self.row(),
            result.outcome,
            Arc::clone(&result.body),
            result.keeps_body,
            result.retention,
        );
        let ended = match run(&self, &mut transaction, &end).await {
            Ok(ended) => ended,
            Err(failure) => return Err(self.refused(Refusal::unavailable(failure).into())),
        };
        if !ended.is_done {
            let reason = self.why_not().await;
            return Err(self.refused(reason));
        }
        Ok(CompletedInTx { claim: self, result, completed: ended.now, is_wanted: ended.is_wanted })
    }

    async fn why_not(&self) -> ClaimError {
        let looked = self.look_why(None, self.core().deadline()).await;
        looked.err().unwrap_or_else(|| {
            let message = "the transaction does not see the claim: it must be on the store's database, \
                           and start after the begin or read what is committed";
            Refusal::unavailable(StoreFailure::new(FailureKind::Options, message)).into()
        })
    }
}

async fn run(claim: &SharedClaim, transaction: &mut Tx<'_>, end: &EndAsk) -> Result<Ended, StoreFailure> {
    let params = EndAsk::params(std::iter::once(end), Shape::One);
    let statement = (&*claim.core().tx_sql.end, transaction.prepared.map(|all| &all.end));
    let Some(row) = asked(claim.core(), transaction, statement, &params).await? else {
        return EndAsk::no_answer();
    };
    let mut columns = Columns::new(&row);
    columns.skip();
    Ended::read(&mut columns)
}

impl CompletedInTx {
    /// The record, after the transaction was committed.
    #[must_use]
    pub fn committed(mut self) -> Record {
        let record = self.claim.record(&self.result, self.completed);
        self.claim.has_stored(&record);
        if self.is_wanted {
            listener::tell(&self.claim.handle.0, self.claim.attempt.digest);
        }
        record
    }

    /// The claim, after the transaction was rolled back: it is as good as before.
    pub fn rolled_back(self) -> Claim {
        self.claim.into()
    }
}

/// In short.
impl std::fmt::Debug for CompletedInTx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompletedInTx")
            .field("key", &self.claim.attempt.digest.key_hash())
            .finish_non_exhaustive()
    }
}
