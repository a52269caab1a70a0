//! Workers: each keeps one connection, and runs one statement after the other on it.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use super::columns::Params;
use super::connection::{Link, race};
use super::core::Core;
use super::intake::{Queued, Work};
use super::listener;
use super::sql::Shape;
use super::statement::{Ask, Miss};
use super::statements::in_tx::{MARKED, mark};
use crate::error::{FailureKind, StoreFailure};
use crate::sync::{Arc, Ordering};

/// Serves until the runtime ends.
pub(super) async fn serve(core: Arc<Core>, listens: bool) {
    let mut pause = PAUSE_MIN;
    loop {
        match connect(&core, listens).await {
            Ok(link) => {
                pause = PAUSE_MIN;
                core.is_connected(listens);
                let link = Rc::new(link);
                serve_on(&core, &link).await;
                if link.suspects_pooler() && !link.is_pooled() {
                    core.is_pooled.store(true, Ordering::Relaxed);
                }
                core.is_disconnected(listens);
            }
            Err(failure) => core.failed_to_connect(failure),
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

async fn connect(core: &Arc<Core>, listens: bool) -> Result<Link, StoreFailure> {
    let hears = Arc::clone(core);
    let link = Link::open(core.link_options(), move |payload| listener::heard(&hears, payload)).await?;
    if listens && !link.is_pooled() {
        link.script(&listener::listen_sql(&core.options.schema)).await?;
    }
    Ok(link)
}

async fn serve_on(core: &Arc<Core>, link: &Rc<Link>) {
    while !link.is_broken() {
        let Ok(work) = race(core.intake.next(), link.gone()).await else { return };
        match work {
            Work::Begins(asks) => run(core, link, asks).await,
            Work::LimitedBegins(asks) => run(core, link, asks).await,
            Work::Ends(asks) => run(core, link, asks).await,
            Work::GentleEnds(asks) => run(core, link, asks).await,
            Work::Grants(asks) => run(core, link, asks).await,
            Work::LimitedGrants(asks) => run(core, link, asks).await,
            Work::Changes(asks) => run(core, link, asks).await,
            Work::Looks(asks) => run(core, link, asks).await,
            Work::Wants(asks) => run(core, link, asks).await,
            Work::Errand(errand) => (errand.run)(Rc::clone(link)).await,
        }
    }
}

async fn run<S: Queued>(core: &Arc<Core>, link: &Link, asks: Vec<Ask<S>>) {
    let asks = without_blocked(core, link, asks).await;
    if asks.is_empty() {
        return;
    }
    core.traffic.grouped.fetch_add(asks.len() as u64, Ordering::Relaxed);
    core.traffic.groups.fetch_add(1, Ordering::Relaxed);
    let is_alone = asks.len() == 1 && core.options.one_call_plans;
    let shape = if is_alone { core.sql.shape_for_one(S::KIND) } else { Shape::Many };
    let text = core.sql.text(S::KIND, shape);
    let mut sent = Sent(asks);
    let asked = link.query((S::KIND, shape), text, &S::params(&sent.0, shape)).await;
    let asks = std::mem::take(&mut sent.0);
    let rows = match asked {
        Ok(rows) => rows,
        Err(miss) => {
            let miss = S::missed(miss);
            let asks = if has_waited(&miss) { S::again_gently(&core.intake, asks) } else { asks };
            if asks.is_empty() {
                return;
            }
            let (blocked, asks) = blocked(link, &miss, asks).await;
            if !blocked.is_empty() {
                core.blocked.add(blocked.iter().map(|ask| ask.what.digest()));
                refuse(blocked, &Miss::NotDone(StoreFailure::locked()));
                return core.intake.put_back(asks, &core.failure());
            }
            if let Miss::NotDone(failure) | Miss::Unknown(failure) | Miss::Unread(failure) = &miss {
                core.note_failure(failure);
            }
            return refuse(asks, &miss);
        }
    };
    let mut answers: Vec<Option<Result<S::Answer, StoreFailure>>> = Vec::new();
    answers.resize_with(asks.len(), || None);
    for (place, answer) in S::placed(&rows, &asks, shape) {
        if let Some(place) = answers.get_mut(place) {
            *place = Some(answer);
        }
    }
    let answers = answers.into_iter().map(|answer| answer.unwrap_or_else(S::no_answer));
    let mut cut = Vec::new();
    for (ask, answer) in asks.into_iter().zip(answers) {
        if answer.as_ref().is_ok_and(S::is_cut) {
            cut.push(ask);
            continue;
        }
        if let Ok(answer) = &answer
            && S::is_wanted(answer)
        {
            listener::tell(core, ask.what.digest());
        }
        // It happened, even if what came back can't be read.
        ask.reply.send(answer.map_err(|failure| S::missed(Miss::Unknown(failure))));
    }
    core.intake.put_back(cut, &core.failure());
}

/// Calls whose statement is under way. If the thread ends meanwhile, they may have happened.
struct Sent<S: Queued>(Vec<Ask<S>>);

impl<S: Queued> Drop for Sent<S> {
    fn drop(&mut self) {
        if S::CHANGES {
            refuse(std::mem::take(&mut self.0), &Miss::Unknown(StoreFailure::closed_meanwhile()));
        }
    }
}

fn refuse<S: Queued>(asks: Vec<Ask<S>>, miss: &Miss) {
    for ask in asks {
        ask.reply.send(Err(miss.clone()));
    }
}

/// After a statement that failed: the calls that wait for a transaction, and the others.
async fn blocked<S: Queued>(link: &Link, miss: &Miss, asks: Vec<Ask<S>>) -> (Vec<Ask<S>>, Vec<Ask<S>>) {
    if !S::WAITS_FOR_INSERTS || !has_waited(miss) {
        return (Vec::new(), asks);
    }
    let marked = marked(link).await;
    asks.into_iter().partition(|ask| marked.contains(&mark(ask.what.digest())))
}

/// Whether a statement was ended because it took too long: it may have waited for a row.
fn has_waited(miss: &Miss) -> bool {
    matches!(miss, Miss::NotDone(failure) if failure.kind() == FailureKind::TimedOut)
}

/// The marks of open transactions. Where they can't be read, the next try of each call finds out.
async fn marked(link: &Link) -> HashSet<i64> {
    let rows = link.once(MARKED, &Params::default()).await.unwrap_or_default();
    rows.iter().filter_map(|row| row.try_get(0).ok()).collect()
}

/// The calls that can be sent together: one that would wait for a transaction again is answered.
async fn without_blocked<S: Queued>(core: &Core, link: &Link, asks: Vec<Ask<S>>) -> Vec<Ask<S>> {
    let is_suspect = |ask: &Ask<S>| core.blocked.contains(ask.what.digest());
    if !S::WAITS_FOR_INSERTS || !asks.iter().any(is_suspect) {
        return asks;
    }
    let marked = marked(link).await;
    core.blocked.keep(|digest| marked.contains(&mark(digest)));
    let (blocked, free) = asks.into_iter().partition(is_suspect);
    refuse(blocked, &Miss::NotDone(StoreFailure::locked()));
    free
}
