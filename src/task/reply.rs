//! One answer, from a task to the caller that waits for it.

use crate::fork;
use crate::sync::{Arc, Mutex};
use crate::task::wait_list::WaitList;

/// Both ends of a reply.
pub(crate) fn pair<T>() -> (ReplySender<T>, Reply<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State::Open),
        wakers: WaitList::default(),
        generation: fork::generation(),
    });
    (ReplySender(Arc::clone(&shared)), Reply(shared))
}

struct Shared<T> {
    /// Leaf lock.
    state: Mutex<State<T>>,
    wakers: WaitList,
    generation: u64,
}

impl<T> Shared<T> {
    /// Whether this is a forked child: no thread answers there, and the lock may be held for
    /// ever.
    fn is_forked(&self) -> bool {
        self.generation != fork::generation()
    }
}

enum State<T> {
    /// An answer will come.
    Open,
    Sent(T),
    /// No answer can come, or it was taken.
    Over,
}

/// The end that answers. Its drop without an answer means that there will be none.
pub(crate) struct ReplySender<T>(Arc<Shared<T>>);

impl<T> ReplySender<T> {
    pub(crate) fn send(self, answer: T) {
        if !self.0.is_forked() {
            *self.0.state.lock() = State::Sent(answer);
        }
    }
}

impl<T> Drop for ReplySender<T> {
    fn drop(&mut self) {
        if self.0.is_forked() {
            return;
        }
        let mut state = self.0.state.lock();
        if matches!(*state, State::Open) {
            *state = State::Over;
        }
        drop(state);
        self.0.wakers.wake_all();
    }
}

/// The end that waits.
pub(crate) struct Reply<T>(Arc<Shared<T>>);

impl<T> Reply<T> {
    /// The answer; `None` if there will be none.
    pub(crate) async fn get(self) -> Option<T> {
        let take = || {
            if self.0.is_forked() {
                return Some(None);
            }
            let mut state = self.0.state.lock();
            match std::mem::replace(&mut *state, State::Over) {
                State::Open => {
                    *state = State::Open;
                    None
                }
                State::Sent(answer) => Some(Some(answer)),
                State::Over => Some(None),
            }
        };
        self.0.wakers.until(take).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_executor::block_on;
    use futures_util::join;

    #[test]
    fn an_answer_arrives_whether_it_comes_before_or_after_the_question() {
        let (replier, awaited) = pair();
        replier.send(7);
        assert_eq!(block_on(awaited.get()), Some(7));

        let (replier, awaited) = pair();
        let answered = block_on(async { join!(awaited.get(), async move { replier.send(7) }).0 });
        assert_eq!(answered, Some(7));
    }

    #[test]
    fn whoever_waits_is_told_that_there_will_be_no_answer() {
        let (replier, awaited) = pair::<u8>();
        let answered = block_on(async { join!(awaited.get(), async move { drop(replier) }).0 });
        assert_eq!(answered, None);
    }

    #[test]
    fn an_answer_that_nobody_waits_for_is_dropped() {
        let (replier, awaited) = pair();
        drop(awaited);
        let answer = std::sync::Arc::new(());
        replier.send(std::sync::Arc::clone(&answer));
        assert_eq!(std::sync::Arc::strong_count(&answer), 1);
    }
}
