//! What is counted and timed, by scope.

use std::sync::Arc;
use std::time::Duration;

use idemkv::{Begin, BeginError, Engine, Fingerprint, MetricsObserver, Recovery};

use crate::common::{Machine, fresh, request};
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

fn number(value: u64) -> f64 {
    f64::from(u32::try_from(value).unwrap())
}
