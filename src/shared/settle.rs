//! Loose ends are settled: claims that were dropped, and grants whose caller went away.

use std::collections::HashSet;
use std::rc::Rc;

use tokio::task::spawn_local;
use tokio_postgres::types::Type;

use super::batch::side_by_side;
use super::columns::{Id, Params, signed};
use super::connection::{Link, first};
use super::core::Core;
use super::granting::nonce;
use super::loose_ends::LooseEnd;
use super::row::{Columns, KeyRow, RowState};
use super::sql::{OCCUPY, VACATED_MS};
use super::statement::Miss;
use super::statements::end::{Ended, GentleEnd};
use crate::attempt::Ended as How;
use crate::clock::{Deadline, millis};
use crate::engine::common::counters::Counters;
use crate::observer::EndKind;
use crate::sync::Arc;

/// Settles until the runtime ends.
pub(super) async fn settle(core: Arc<Core>) {
    loop {
        let (due, next) = core.loose_ends.take_due();
        if due.is_empty() {
            let called = core.loose_ends.called.notified();
            match next {
                Some(at) => first(tokio::time::sleep_until(at.into()), called).await,
                None => called.await,
            }
            continue;
        }
        let core = Arc::clone(&core);
        // A connection that falls silent delays those alone that it carries.
        spawn_local(async move { settle_all(&core, due).await });
    }
}

async fn settle_all(core: &Core, due: Vec<LooseEnd>) {
    let deadline = core.deadline();
    // All are sent before the first answer is awaited, so that they share statements.
    let sent: Vec<_> =
        due.into_iter().map(|end| (core.send(GentleEnd(end.end.clone()), deadline), end)).collect();
    let answered = sent.into_iter().map(async |(answer, end)| {
        let answer = match answer {
            Ok(answer) => answer.get().await.unwrap_or(Err(Miss::Closed)),
            Err(miss) => Err(miss),
        };
        if answer.as_ref().is_ok_and(|ended| !ended.is_there) && end.names.is_some() {
            return Some(end);
        }
        if settled(core, &end, answer).await {
            core.loose_ends.settled();
        } else {
            core.loose_ends.put_back(end);
        }
        None
    });
    let unseen = side_by_side(answered).await;
    occupy_all(core, unseen.into_iter().flatten().collect()).await;
}

/// Whether a loose end is settled by this answer.
async fn settled(core: &Core, end: &LooseEnd, answer: Result<Ended, Miss>) -> bool {
    let Ok(ended) = answer else { return false };
    let Some(attempt) = &end.attempt else {
        return ended.is_done || !ended.is_locked && end.until.is_none_or(Deadline::has_passed);
    };
    let how = if ended.is_done {
        attempt.interrupt(ended.now);
        core.note_drop(attempt);
        How::Interrupted
    } else if ended.is_locked {
        return false;
    } else {
        // It had ended: by a transaction of which no word was said, by this end, or with its lease.
        let looked = core.look(attempt.digest, end.may_be_over, core.deadline()).await;
        let Ok(looked) = looked else { return false };
        let is_its_own = |row: &KeyRow| row.nonce == end.end.nonce && row.fence == attempt.fence;
        match looked.row.filter(is_its_own) {
            Some(row) if row.state == RowState::Done => {
                let record = row.record(attempt.digest);
                core.note_result(attempt, &record);
                How::Done(record)
            }
            // By an end of its holder's whose answer got lost.
            Some(row) if row.state == RowState::Vacated && end.may_be_over => {
                core.note_end(attempt, end.released, looked.now, 0);
                How::Vacated
            }
            Some(row) if row.state == RowState::Interrupted && row.was_returned() => {
                let is_unused = row.attempt < attempt.number;
                let kind = if is_unused { EndKind::PutBack } else { EndKind::Released };
                core.note_end(attempt, kind, looked.now, 0);
                How::Interrupted
            }
            // By this end, whose answer got lost: a lease that is over ends the claim no sooner.
            Some(row) if row.state == RowState::Interrupted && row.interrupted_at() < row.lease => {
                attempt.interrupt(row.interrupted_at());
                core.note_drop(attempt);
                How::Interrupted
            }
            _ => {
                Counters::count(&core.counters.lease_expired);
                How::Interrupted
            }
        }
    };
    core.watches.ended(attempt, how);
    true
}

/// So many that are sent alone are sent in one turn: each may have to wait.
const ALONE_MAX: usize = 16;

/// Grants that insert a row, of which there is none. One may be under way, and no time limit holds
/// for its commit. So a row is put where it would insert its own. If that row can't be put there
/// yet, it is tried again.
async fn occupy_all(core: &Core, unseen: Vec<LooseEnd>) {
    let (alone, mut together): (Vec<_>, Vec<_>) = unseen.into_iter().partition(|end| end.is_alone);
    while !together.is_empty() {
        let left = together.split_off(together.len().min(core.options.group_max));
        occupy(core, std::mem::replace(&mut together, left)).await;
    }
    for (number, end) in alone.into_iter().enumerate() {
        if number < ALONE_MAX {
            occupy(core, vec![end]).await;
        } else {
            core.loose_ends.put_back(end);
        }
    }
}

async fn occupy(core: &Core, ends: Vec<LooseEnd>) {
    let occupied = insert(core, &ends).await;
    for mut end in ends {
        match &occupied {
            // No grant finds the place empty any more.
            Ok(digests) if digests.contains(&end.end.digest.as_u128()) => core.loose_ends.settled(),
            Ok(_) => core.loose_ends.put_back(end),
            Err(_) => {
                end.is_alone = true;
                core.loose_ends.put_back(end);
            }
        }
    }
}

/// The digests of the keys of which there was no row.
async fn insert(core: &Core, ends: &[LooseEnd]) -> Result<HashSet<u128>, Miss> {
    let sql = core.sql.filled(OCCUPY);
    let digests: Vec<_> = ends.iter().map(|end| Id(end.end.digest.as_u128())).collect();
    let nonces = ends.iter().map(|_| nonce().map(Id));
    let Ok(nonces) = nonces.collect::<Result<Vec<_>, _>>() else {
        return Err(Miss::NotDone(core.failure()));
    };
    let names: Vec<_> = ends.iter().filter_map(|end| end.names.clone()).collect();
    // Longer than any statement of the call that can still arrive.
    let gone = VACATED_MS + signed(millis(core.options.call_timeout + core.options.statement_timeout * 2));
    let inserted = core.errand(core.deadline(), async move |link: Rc<Link>| {
        let params = Params::default()
            .with(digests, Type::UUID_ARRAY)
            .with(nonces, Type::UUID_ARRAY)
            .bytes(names.iter().map(|(scope, _)| Some(&**scope)))
            .bytes(names.iter().map(|(_, key)| Some(&**key)))
            .with(gone, Type::INT8);
        link.once(&sql, &params).await
    });
    let mut digests = HashSet::new();
    for row in &inserted.await? {
        if let Ok(Id(digest)) = Columns::new(row).take() {
            digests.insert(digest);
        }
    }
    Ok(digests)
}
