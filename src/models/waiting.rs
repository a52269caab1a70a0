//! Models of waiting: wait lists, notifiers and replies.

use super::*;

#[test]
fn a_task_that_waits_is_woken_by_whoever_changes_the_answer() {
    model("wakers", None, || {
        let shared = Arc::new((WaitList::default(), AtomicBool::new(false)));
        let theirs = Arc::clone(&shared);
        let other = spawn(move || {
            theirs.1.store(true, Ordering::Release);
            theirs.0.wake_all();
        });
        park_on(shared.0.until(|| shared.1.load(Ordering::Acquire).then_some(())));
        other.join().unwrap();
    });
}

#[test]
fn two_tasks_that_wait_are_both_woken_though_a_third_gives_up() {
    model("wakers_of_two", Some(3), || {
        let shared = Arc::new((WaitList::default(), AtomicBool::new(false)));
        let wait = |shared: Arc<(WaitList, AtomicBool)>| {
            spawn(move || park_on(shared.0.until(|| shared.1.load(Ordering::Acquire).then_some(()))))
        };
        let waiting = [wait(Arc::clone(&shared)), wait(Arc::clone(&shared))];
        {
            let mut given_up = Box::pin(shared.0.until(|| None::<()>));
            assert!(given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        shared.1.store(true, Ordering::Release);
        shared.0.wake_all();
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_bell_that_rings_before_anybody_listens_is_heard() {
    model("notifier", Some(3), || {
        let (notifier, listener) = Notifier::pair();
        let work = Arc::new(AtomicUsize::new(0));
        let ring = |notifier: Notifier, work: Arc<AtomicUsize>| {
            spawn(move || {
                work.fetch_add(1, Ordering::Release);
                notifier.notify();
            })
        };
        let others = [ring(notifier.clone(), Arc::clone(&work)), ring(notifier, Arc::clone(&work))];
        let mut seen = 0;
        // Once nobody is left to ring, everything that was rung for has been seen.
        while listener.wait(Deadline::NEVER) {
            seen = work.load(Ordering::Acquire);
        }
        assert_eq!(seen, 2);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

#[cfg(feature = "serde")]
#[test]
fn an_answer_reaches_whoever_waits_for_it_and_so_does_its_absence() {
    for answers in [true, false] {
        model("reply", None, move || {
            let (replier, awaited) = crate::task::reply::pair();
            let other = spawn(move || if answers { replier.send(7) } else { drop(replier) });
            assert_eq!(park_on(awaited.get()), answers.then_some(7));
            other.join().unwrap();
        });
    }
}
