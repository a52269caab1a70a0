//! What is counted and timed, by scope.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use idemkv::{Begin, BeginError, Engine, Fingerprint, MetricsObserver, Recovery, Waited};

use crate::common::{Machine, fresh, poll, request};
use crate::recorder::Kept;

/// Runs the body with a recorder of its own.
pub(crate) fn recorded(body: impl FnOnce(&Kept)) {
    let kept = Kept::default();
    metrics::with_local_recorder(&kept.clone(), || body(&kept));
}

pub(crate) fn opened(machine: &Machine, observer: &Arc<MetricsObserver>) -> Engine {
    machine.options().observer(Arc::clone(observer)).open("x.idem").unwrap()
}

#[test]
fn each_answer_of_begin_and_each_end_counts_once_by_scope() {
    recorded(|kept| {
        let machine = Machine::default();
        let engine = opened(&machine, &Arc::new(MetricsObserver::new("charges")));
        let policy = engine.policy().lease(Duration::from_secs(10)).recovery(Recovery::Rerun);
        let jobs = engine.set_policy("jobs", policy).unwrap();
        let strict = engine.set_policy("strict", engine.policy().recovery(Recovery::Refuse)).unwrap();

        let claim = fresh(&jobs, "a");
        assert!(matches!(jobs.begin("a", request()), Ok(Begin::InFlight(_))));
        machine.clock.advance(Duration::from_secs(2));
        drop(claim.complete("reply").unwrap());
        for _ in 0..3 {
            assert!(matches!(jobs.begin("a", request()), Ok(Begin::Done(_))));
        }
        assert!(matches!(jobs.begin("a", Fingerprint::of("another")), Err(BeginError::KeyReused)));
        assert!(matches!(jobs.begin("", request()), Err(BeginError::Key(_))));
        drop(fresh(&jobs, "b").fail("no").unwrap());
        fresh(&jobs, "c").release().unwrap();
        drop(fresh(&jobs, "d"));
        fresh(&jobs, "d").release().unwrap();
        let late = fresh(&jobs, "late");
        machine.clock.advance(Duration::from_secs(10));
        engine.step();
        assert!(late.complete("late").is_err());
        drop(fresh(&strict, "e"));
        assert!(matches!(strict.begin("e", request()), Err(BeginError::Unresolved(_))));
        drop(strict.resolve("e").unwrap().complete("found").unwrap());
        // A twin within a batch is in flight, as others are.
        let mut twins = jobs.begin_many(&[("t", request()), ("t", request())]);
        assert!(matches!(twins.pop(), Some(Err(BeginError::DuplicateInBatch { first: 0 }))));
        drop(twins);

        let begins = |scope: &str, answer: &str| {
            kept.value(&format!("idemkv_begins_total{{engine=charges,scope={scope},answer={answer}}}"))
        };
        let answers = ["fresh", "rerun", "replayed", "in_flight", "reused", "unresolved", "expired"];
        assert_eq!(answers.map(|answer| begins("jobs", answer)), [6.0, 1.0, 3.0, 2.0, 1.0, 0.0, 0.0]);
        assert_eq!(answers.map(|answer| begins("strict", answer)), [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(begins("jobs", "refused,reason=key"), 1.0);
        let stats = engine.stats();
        let all: f64 = kept
            .names()
            .iter()
            .filter(|name| name.starts_with("idemkv_begins_total"))
            .map(|name| kept.value(name))
            .sum();
        assert_eq!(all, f64::from(u32::try_from(stats.begins()).unwrap()));

        let of =
            |metric: &str, labels: &str| kept.value(&format!("{metric}{{engine=charges,scope={labels}}}"));
        let ends = ["completed", "failed", "released"];
        let ends = |scope| ends.map(|kind| of("idemkv_ends_total", &format!("{scope},kind={kind}")));
        assert_eq!((ends("jobs"), ends("strict")), ([1.0, 1.0, 2.0], [1.0, 0.0, 0.0]));
        let causes = ["dropped", "lease", "restart"];
        let causes = causes.map(|cause| of("idemkv_interruptions_total", &format!("jobs,cause={cause}")));
        assert_eq!(causes, [2.0, 1.0, 0.0]);
        assert_eq!(of("idemkv_superseded_total", "jobs"), 1.0);
        assert_eq!(of("idemkv_resolutions_total", "strict"), 1.0);
        let times = kept.values("idemkv_operation_duration_seconds{engine=charges,scope=jobs}");
        assert_eq!(times, [2.0, 0.0, 0.0, 0.0]);
        let begins = kept.values("idemkv_begin_duration_seconds{engine=charges,scope=jobs}");
        assert!(begins.len() == 7 && begins.iter().all(|time| (1e-9..1e3).contains(time)), "{begins:?}");
    });
}

#[test]
fn scopes_beyond_the_limit_are_counted_together_and_their_names_are_text_of_bounded_length() {
    recorded(|kept| {
        let machine = Machine::default();
        let engine = opened(&machine, &Arc::new(MetricsObserver::new("x").scopes_max(2)));
        let names: [&[u8]; 5] = [b"\xff\n", &[b'x'; 200], b"c", b"d", b"c"];
        for (key, name) in ["1", "2", "3", "4", "5"].into_iter().zip(names) {
            fresh(&engine.scope(name), key).release().unwrap();
        }
        let fresh =
            |scope: &str| kept.value(&format!("idemkv_begins_total{{engine=x,scope={scope},answer=fresh}}"));
        let long = "x".repeat(63) + "…";
        assert_eq!(["\u{fffd}\u{fffd}", &long, "(other)", "c"].map(fresh), [1.0, 1.0, 3.0, 0.0]);
    });
}

#[test]
fn what_is_published_agrees_with_the_statistics_however_often_and_over_openings() {
    recorded(|kept| {
        let machine = Machine::default();
        let observer = Arc::new(MetricsObserver::new("x"));
        let value = |name: &str| kept.value(&format!("{name}{{engine=x}}"));
        let bucket = |name: &str, le: &str| kept.value(&format!("{name}{{engine=x,le={le}}}"));
        let mut commits = 0;
        for opening in 0..3_u32 {
            let engine = opened(&machine, &observer);
            let scope = engine.scope("jobs");
            for key in 0..=4 * opening {
                drop(fresh(&scope, &format!("{opening} {key}")).complete("reply").unwrap());
                observer.publish(&engine);
            }
            let out = fresh(&scope, &format!("{opening} out"));
            observer.publish(&engine);
            assert_eq!(value("idemkv_claims_in_flight"), 1.0);
            out.release().unwrap();
            observer.publish(&engine);
            observer.publish(&engine);
            let stats = engine.stats();
            commits += stats.commits;
            assert_eq!(value("idemkv_commits_total"), number(commits));
            for name in ["idemkv_commit_duration_seconds_bucket", "idemkv_commit_size_entries_bucket"] {
                assert_eq!(bucket(name, "+Inf"), number(commits), "{name}");
            }
            assert_eq!(bucket("idemkv_commit_duration_seconds_bucket", "16.777216"), number(commits));
            assert_eq!(bucket("idemkv_commit_size_entries_bucket", "65536"), number(commits));
            assert_eq!(value("idemkv_log_limit_bytes"), number(stats.log_bytes_max));
            assert_eq!(value("idemkv_log_used_bytes"), number(stats.log_used_bytes));
            assert!(stats.log_used_bytes > 0 && stats.log_used_bytes < stats.log_bytes);
            engine.close().unwrap();
        }
    });
}

#[test]
fn after_a_crash_gauges_and_counters_are_right_before_the_first_begin() {
    recorded(|kept| {
        let machine = Machine::default();
        let observer = Arc::new(MetricsObserver::new("x"));
        let engine = opened(&machine, &observer);
        let scope = engine.scope("jobs");
        drop(fresh(&scope, "done").complete("reply").unwrap());
        let lost = fresh(&scope, "lost");
        observer.publish(&engine);
        let gauges = || {
            ["keys", "claims_in_flight", "interrupted_keys"]
                .map(|name| kept.value(&format!("idemkv_{name}{{engine=x}}")))
        };
        assert_eq!(gauges(), [2.0, 1.0, 0.0]);
        machine.kill((lost, scope, engine));
        let interrupted = || kept.value("idemkv_interruptions_total{engine=x,scope=jobs,cause=restart}");
        assert_eq!(interrupted(), 0.0);
        let engine = opened(&machine, &observer);
        observer.publish(&engine);
        assert_eq!((gauges(), interrupted()), ([2.0, 0.0, 1.0], 1.0));
    });
}

#[test]
fn waits_have_answers_of_their_own_and_refusals_say_why() {
    recorded(|kept| {
        let machine = Machine::default();
        let observer = Arc::new(MetricsObserver::new("x"));
        let options = machine.options().max_waiters(1).observer(Arc::clone(&observer));
        let engine = options.open("x.idem").unwrap();
        let jobs = engine.scope("jobs");
        let pending = || match jobs.begin("a", request()) {
            Ok(Begin::InFlight(pending)) => pending,
            other => panic!("{other:?}"),
        };
        let out = fresh(&jobs, "a");
        let late = pending();
        assert!(matches!(late.wait_timeout(Duration::ZERO), Ok(Waited::TimedOut)));
        let (mut first, mut second) = (pin!(late.wait_async()), pin!(late.wait_async()));
        assert!(poll(first.as_mut()).is_pending());
        assert!(matches!(poll(second.as_mut()), Poll::Ready(Err(BeginError::Busy(_)))));
        drop(out);
        assert!(matches!(poll(first.as_mut()), Poll::Ready(Ok(Waited::Interrupted))));
        let out = jobs.resolve("a").unwrap();
        let vacant = pending();
        out.release().unwrap();
        assert!(matches!(vacant.wait(), Ok(Waited::Vacant)));
        let out = fresh(&jobs, "a");
        let twin = pending();
        drop(out.complete("reply").unwrap());
        assert!(matches!(twin.wait(), Ok(Waited::Done(_))));
        let of =
            |answer: &str| kept.value(&format!("idemkv_waits_total{{engine=x,scope=jobs,answer={answer}}}"));
        let answers = ["replayed", "vacant", "interrupted", "timed_out", "refused,reason=too_many_waiters"];
        assert_eq!(answers.map(of), [1.0; 5]);
    });
}

#[test]
fn two_engines_that_share_an_observer_in_turn_count_once_each() {
    recorded(|kept| {
        let observer = Arc::new(MetricsObserver::new("x"));
        let machines = [Machine::default(), Machine::default()];
        let engines = [1, 2].map(|seed| {
            let options = machines[usize::from(seed == 2)].options().seed(seed);
            options.observer(Arc::clone(&observer)).open("x.idem").unwrap()
        });
        for round in 0..3 {
            for (engine, keys) in engines.iter().zip([5, 2]) {
                for key in 0..keys {
                    drop(fresh(&engine.scope("jobs"), &format!("{round} {key}")).complete("reply").unwrap());
                }
                observer.publish(engine);
            }
        }
        let commits = engines.each_ref().map(|engine| engine.stats().commits).iter().sum();
        assert_eq!(kept.value("idemkv_commits_total{engine=x}"), number(commits));
    });
}

#[test]
fn gauges_of_a_closed_engine_are_zero_whether_it_is_published_or_not() {
    recorded(|kept| {
        let machine = Machine::default();
        let observer = Arc::new(MetricsObserver::new("x"));
        let engine = opened(&machine, &observer);
        let lost = fresh(&engine.scope("jobs"), "lost");
        drop(fresh(&engine.scope("jobs"), "dropped"));
        machine.clock.advance(Duration::from_secs(7));
        observer.publish(&engine);
        let gauges = || {
            ["open", "open_seconds", "keys", "claims_in_flight", "interrupted_keys", "file_bytes"]
                .map(|name| kept.value(&format!("idemkv_{name}{{engine=x}}")).min(8.0))
        };
        assert_eq!(gauges(), [1.0, 7.0, 2.0, 1.0, 1.0, 8.0]);
        let published = || kept.value("idemkv_published_timestamp_seconds{engine=x}");
        let at = published();
        assert_eq!(at, number(machine.clock.wall_millis()) / 1_000.0);
        drop(fresh(&engine.scope("jobs"), "last").complete("reply").unwrap());
        engine.clone().close().unwrap();
        assert_eq!(gauges(), [0.0; 6]);
        observer.publish(&engine);
        assert_eq!(gauges(), [0.0; 6]);
        let commits = kept.value("idemkv_commits_total{engine=x}");
        assert_eq!(commits, number(engine.stats().commits), "what came after the last call counts");
        drop((lost, engine));
        // The last handle closes too.
        drop(opened(&machine, &observer));
        assert_eq!(gauges(), [0.0; 6]);
    });
}

/// A recorder's gauge that closes the engine while it is written.
#[test]
fn a_close_during_a_publication_leaves_zeros() {
    recorded(|kept| {
        let machine = Machine::default();
        let observer = Arc::new(MetricsObserver::new("x"));
        let engine = opened(&machine, &observer);
        drop(fresh(&engine.scope("jobs"), "a").complete("reply").unwrap());
        let closing = engine.clone();
        kept.at_next("idemkv_keys{engine=x}", move || assert_eq!(closing.close().unwrap().claims_left, 0));
        observer.publish(&engine);
        assert_eq!(
            ["open", "keys", "file_bytes"].map(|name| kept.value(&format!("idemkv_{name}{{engine=x}}"))),
            [0.0; 3]
        );
    });
}

#[test]
fn what_only_a_resolution_ends_is_told_apart_and_an_opening_says_what_it_found() {
    recorded(|kept| {
        let machine = Machine::default();
        let observer = Arc::new(MetricsObserver::new("x"));
        let engine = opened(&machine, &observer);
        let jobs = engine.set_policy("jobs", engine.policy().recovery(Recovery::Rerun)).unwrap();
        let charges = engine.scope("charges");
        drop(fresh(&jobs, "a"));
        engine.checkpoint().unwrap();
        let out = (fresh(&jobs, "b"), fresh(&charges, "c"));
        machine.kill((out, jobs, charges, engine));
        machine.clock.advance(Duration::from_secs(60));
        let engine = opened(&machine, &observer);
        machine.clock.advance(Duration::from_secs(5));
        observer.publish(&engine);
        let gauges = || {
            ["interrupted_keys", "unresolved_keys", "unresolved_oldest_seconds", "opening_interrupted_claims"]
                .map(|name| kept.value(&format!("idemkv_{name}{{engine=x}}")))
        };
        assert_eq!(gauges(), [3.0, 1.0, 5.0, 2.0]);
        drop(engine.scope("charges").resolve("c").unwrap().complete("found").unwrap());
        observer.publish(&engine);
        assert_eq!(gauges(), [2.0, 0.0, 0.0, 2.0]);
        // With its attempts used up, a key is refused like one of a scope that lets none run again.
        let twice = engine.policy().recovery(Recovery::Rerun).max_attempts(2);
        let jobs = engine.set_policy("jobs", twice).unwrap();
        observer.publish(&engine);
        assert_eq!(gauges(), [2.0, 0.0, 0.0, 2.0]);
        machine.clock.advance(Duration::from_secs(5));
        drop(fresh(&jobs, "a"));
        machine.clock.advance(Duration::from_secs(3));
        observer.publish(&engine);
        assert_eq!(gauges(), [2.0, 1.0, 3.0, 2.0]);
        assert!(matches!(jobs.begin("a", request()), Err(BeginError::Unresolved(_))));
    });
}

fn number(value: u64) -> f64 {
    value.to_string().parse().unwrap()
}
