//! Tokens of claims: sealed by the file, opened, and revoked.

use crate::Timestamp;
use crate::attempt::{Attempt, HandOver};
use crate::codec::TokenRow;
use crate::engine::core::Core;
use crate::engine::core::log_record::{LogRecord, NotedClaim};
use crate::engine::handles::token::ClaimToken;
use crate::error::TokenError;
use crate::index::Slot;
use crate::sync::Arc;
use crate::task::caller::Caller;
use crate::token_seal;
use crate::wal::Reservation;

impl Core {
    pub(in crate::engine) fn token(&self, attempt: &Attempt) -> ClaimToken {
        let (digest, fence) = (attempt.digest.as_u128(), attempt.fence.get());
        let row =
            TokenRow { file_id: self.file_id, digest, fence, opening: self.opening, scope: attempt.scope() };
        ClaimToken::new(token_seal::seal(&self.secret, &row))
    }

    /// Revokes the token of a claim that was handed over, resumed and then dropped, with an entry
    /// in the log. No caller waits for the entry. It uses the space reserved for the claim's end.
    ///
    /// Without this entry, after a kill the claim would be good again until its lease ends,
    /// unless a checkpoint came first.
    pub(in crate::engine) fn revoke_token(
        &self,
        attempt: &Arc<Attempt>,
        now: Timestamp,
        reservation: &mut Reservation,
    ) {
        let Some(hand_over) = attempt.detached().filter(|hand_over| hand_over.until > now) else { return };
        let revoked = HandOver { until: HandOver::REVOKED, ..hand_over };
        let record = LogRecord::Detached(NotedClaim::Live(Arc::clone(attempt)), Box::new(revoked));
        let entry = record.encoded();
        // Behind the intent of a later claim it would be the last word on the key.
        let is_current = |_: &mut _| matches!(self.index.get(attempt.digest), Slot::Interrupted(current) if Arc::ptr_eq(&current, attempt));
        // A log that takes nothing more leaves it to the next opening.
        drop(self.commit.append_if(Caller::Task, [(entry, record)], reservation, is_current));
    }

    pub(in crate::engine) fn open_token<'a>(
        &self,
        token: &'a ClaimToken,
    ) -> Result<TokenRow<'a>, TokenError> {
        token_seal::open(&self.secret, self.file_id, token.as_bytes())
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use super::*;
    use crate::Begin;
    use crate::Engine;
    use crate::Fingerprint;
    use crate::Recovery;
    use crate::sim::ManualClock;
    use crate::sim::SimDisk;

    /// The thread that drops a claim may be delayed before it queues the revocation.
    #[test]
    fn a_revocation_that_comes_behind_the_next_grant_is_not_written() {
        let (disk, clock) = (SimDisk::new(), ManualClock::at_millis(1_000));
        let open = || Engine::options().disk(&disk).clock(&clock).stepped().open("x.idem").unwrap();
        let engine = open();
        let policy = engine.policy().recovery(Recovery::Rerun).lease(Duration::from_secs(10));
        let jobs = engine.set_policy("jobs", policy).unwrap();
        let begin = || match jobs.begin("key", Fingerprint::of("")) {
            Ok(Begin::Fresh(claim)) => claim,
            other => panic!("{other:?}"),
        };
        let token = begin().into_token().unwrap();
        let claim = jobs.resume(&token).unwrap();
        let first = Arc::clone(claim.of());
        drop(claim);
        let second = begin();
        let core = engine.handle.core();
        let mut space =
            Reservation::try_new(&core.space, crate::task::wait_queue::Priority::Claim, 4_096).unwrap();
        core.revoke_token(&first, core.clock.now(), &mut space);
        assert_eq!(engine.stats().queued, 0);
        engine.checkpoint().unwrap();
        disk.crash_at(disk.operations());
        drop((space, second, jobs, engine));
        disk.restart_process();
        let engine = open();
        let listed = engine.interrupted().get().unwrap();
        assert_eq!((listed.len(), listed[0].attempt().attempt()), (1, 2));
    }

    /// The next claim of the key may be there when the log is to be told, and be taken back later:
    /// its place in the log's queue never came.
    #[test]
    fn a_revocation_that_found_the_next_claim_is_made_up_for_when_that_is_taken_back() {
        let (disk, clock) = (SimDisk::new(), ManualClock::at_millis(1_000));
        let open = || {
            let options = Engine::options().disk(&disk).clock(&clock).stepped().queue_entries(1);
            options.open("x.idem").unwrap()
        };
        let engine = open();
        let policy = engine.policy().recovery(Recovery::Rerun).lease(Duration::from_secs(10));
        let jobs = engine.set_policy("jobs", policy).unwrap();
        let begin = |key| match jobs.begin(key, Fingerprint::of("")) {
            Ok(Begin::Fresh(claim)) => claim,
            other => panic!("{other:?}"),
        };
        let filler = begin("filler");
        let token = begin("key").into_token().unwrap();
        let claim = jobs.resume(&token).unwrap();
        let core = engine.handle.core();
        // What the drop of the claim does, in two steps.
        let first = Arc::clone(claim.of());
        let event = crate::state::Event::Abandon { fence: first.fence };
        core.publisher.interrupt(&first, event, core.clock.now());
        drop(filler.complete_async("takes the only place"));
        {
            let mut second = pin!(jobs.begin_async("key", Fingerprint::of("")));
            assert!(second.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            let priority = crate::task::wait_queue::Priority::Claim;
            let mut space = Reservation::try_new(&core.space, priority, 4_096).unwrap();
            core.revoke_token(&first, core.clock.now(), &mut space);
            assert_eq!(engine.stats().queued, 1, "the claim of the second begin is in the index");
        }
        assert_eq!(engine.stats().queued, 2);
        core.commit.drain();
        disk.crash_at(disk.operations());
        drop((claim, jobs, engine));
        disk.restart_process();
        let engine = open();
        let listed = engine.interrupted().get().unwrap();
        assert_eq!((listed.len(), listed[0].attempt().attempt()), (1, 1), "it stands again");
    }
}
