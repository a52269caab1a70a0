//! `resolve`, `forget` and `compact`: they ask first, and do what they said.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use crate::helpers::{claim, closed, contents, fill, fine, killed, killed_with, on};
use idemkv::sim::ManualClock;
use idemkv::{Begin, BeginError, Completion, Engine, Fingerprint, Outcome, Policy, Status};

fn status(file: &std::path::Path, scope: &str, key: &str) -> Status {
    Engine::options().read_only().open(file).unwrap().scope(scope).get(key).unwrap()
}

#[test]
fn without_consent_a_change_says_what_it_would_do_and_does_nothing() {
    let (folder, file) = killed();
    let before = contents(&file);
    let resolve =
        ["lost", "--scope", "refunds", "--as", "completed", "--body", "x", "--ttl", "1h", "--remember", "1h"];
    for (subcommand, arguments) in
        [("forget", &["order 01", "--scope", "charges"][..]), ("resolve", &resolve), ("compact", &[])]
    {
        let ran = on(&file, subcommand, arguments);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("give --yes") && ran.err.contains("marks 1 keys as interrupted"), "{ran:?}");
    }
    let ran = on(&file, "backup", &[folder.path().join("copy").to_str().unwrap()]);
    assert!(ran.code == 1 && ran.err.contains("marks 1 keys as interrupted"), "{ran:?}");
    assert!(contents(&file) == before, "a byte was changed");
}

/// The output goes to a disk that is full.
#[cfg(target_os = "linux")]
#[test]
fn a_change_that_was_done_but_could_not_be_told_has_an_exit_code_of_its_own() {
    let (folder, file) = closed();
    let [copy, export, anew] = ["copy", "export", "anew"].map(|name| folder.path().join(name));
    fs::write(&export, fine(&file, "export", &[])).unwrap();
    let untold = |subcommand: &str, first: &std::path::Path, arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_idemkv"));
        command.arg(subcommand).arg(first).args(arguments).stdin(std::process::Stdio::null());
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ran = command.stdout(full).output().unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(7), "{subcommand}: {said}");
        assert!(said.contains("it was done"), "{subcommand}: {said}");
    };
    untold("forget", &file, &["order 01", "--scope", "charges", "--yes"]);
    assert!(matches!(status(&file, "charges", "order 01"), Status::Vacant));
    untold("resolve", &file, &["monthly", "--scope", "reports", "--as", "failed", "--body", "", "--yes"]);
    assert!(matches!(status(&file, "reports", "monthly"), Status::Done(_)));
    untold("compact", &file, &["--yes"]);
    untold("backup", &file, &[copy.to_str().unwrap(), "--yes"]);
    untold("import", &export, &[anew.to_str().unwrap()]);
    untold("restore", &copy, &[file.to_str().unwrap(), "--yes"]);
    assert!(copy.exists() && anew.exists());
    // What only looks has done nothing.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let looks = std::process::Command::new(env!("CARGO_BIN_EXE_idemkv"))
        .arg("stats")
        .arg(&file)
        .stdout(full)
        .output();
    assert_eq!(looks.unwrap().status.code(), Some(1));
}

#[test]
fn an_interrupted_key_gets_the_outcome_that_it_is_given() {
    let (folder, file) = closed();
    let reply = folder.path().join("reply");
    fs::write(&reply, b"refunded \xff").unwrap();
    let reply = reply.to_str().unwrap();
    let arguments =
        ["lost", "--scope", "refunds", "--as", "completed", "--body-file", reply, "--ttl", "3h", "--yes"];
    let ran = on(&file, "resolve", &[&arguments[..], &["--remember", "3h"]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("attempt 1, progress of 6 bytes") && ran.err.contains("for 3h"), "{ran:?}");
    assert!(ran.err.contains("may still be at work"), "{ran:?}");
    let Status::Done(record) = status(&file, "refunds", "lost") else { panic!() };
    assert_eq!((record.outcome(), record.body()), (Outcome::Success, &b"refunded \xff"[..]));
    assert_eq!(record.expires().saturating_since(record.completed()), Duration::from_secs(3 * 3_600));
    // Its policy says for how long.
    fine(&file, "resolve", &["monthly", "--scope", "reports", "--as", "failed", "--body", "", "--yes"]);
    let Status::Done(record) = status(&file, "reports", "monthly") else { panic!() };
    assert_eq!(record.outcome(), Outcome::Failure);
    assert_eq!(record.expires().saturating_since(record.completed()), Duration::from_secs(7_200));
}

/// The layer replays only what has the form of a stored response.
#[cfg(feature = "http")]
#[test]
fn a_key_of_the_http_layer_gets_a_response() {
    let (_folder, file) = closed();
    let refused = |arguments: &[&str], why: &str| {
        let ran = on(&file, "resolve", arguments);
        assert!(ran.code == 1 && ran.err.contains(why), "{ran:?}");
    };
    let times = ["--ttl", "1h", "--remember", "1h"];
    let lost = ["lost", "--scope", "refunds", "--yes", "--body", r#"{"id":"re_1"}"#];
    let lost = [&lost[..], &times, &["--as"]].concat();
    refused(&[&lost[..], &["failed", "--http-status", "201"]].concat(), "give --as completed");
    refused(&[&lost[..], &["completed", "--http-status", "402"]].concat(), "give --as failed");
    for code in ["99", "100", "1000"] {
        refused(&[&lost[..], &["completed", "--http-status", code]].concat(), "no status of a response");
    }
    let headless = ["completed", "--http-status", "201", "--header", "no header"];
    refused(&[&lost[..], &headless].concat(), "name: value");
    let without = ["lost", "--scope", "refunds", "--yes", "--as", "did-not-happen", "--http-status", "201"];
    refused(&without, "leave its status out");
    let ran = on(&file, "resolve", &[&lost[..], &["completed", "--header", "a: b"]].concat());
    assert_eq!(ran.code, 2, "a header without a status: {ran:?}");

    let response = ["completed", "--http-status", "201", "--header", "Content-Type: application/json"];
    let more = ["--header", "x-a: 1", "--header", "x-a: 2", "--header", "set-cookie: secret"];
    fine(&file, "resolve", &[&lost[..], &response, &more].concat());
    let Status::Done(record) = status(&file, "refunds", "lost") else { panic!() };
    let response = idemkv::http::response_of_record(&record).unwrap();
    assert_eq!((record.outcome(), response.status().as_u16()), (Outcome::Success, 201));
    let headers: Vec<_> =
        response.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(headers, [("content-type", "application/json"), ("x-a", "1"), ("x-a", "2")]);
    assert_eq!(response.body().as_deref(), Some(&br#"{"id":"re_1"}"#[..]));
}

#[test]
fn an_operation_that_did_not_happen_runs_as_the_first() {
    let (_folder, file) = closed();
    fine(&file, "resolve", &["lost", "--scope", "refunds", "--as", "did-not-happen", "--yes"]);
    let engine = Engine::open(&file).unwrap();
    let Begin::Fresh(claim) = engine.scope("refunds").begin("lost", Fingerprint::of("request")).unwrap()
    else {
        panic!()
    };
    assert!(claim.interrupted().is_none());
}

/// A service's default policy is not in its file.
#[test]
fn a_result_is_not_kept_for_a_time_that_nobody_chose() {
    let (_folder, file) = closed();
    let before = contents(&file);
    let refused = |arguments: &[&str], why: &str| {
        let ran = on(&file, "resolve", arguments);
        assert!(ran.code == 1 && ran.err.contains(why), "{ran:?}");
    };
    let lost = ["lost", "--scope", "refunds", "--yes", "--as"];
    refused(&[&lost[..], &["completed", "--body", "x"]].concat(), "give --ttl and --remember");
    refused(&[&lost[..], &["completed", "--body", "x", "--ttl", "1h"]].concat(), "give --ttl and --remember");
    let shorter = ["completed", "--body", "x", "--ttl", "1h", "--remember", "59m"];
    refused(&[&lost[..], &shorter].concat(), "give --remember 1h or more");
    refused(&[&lost[..], &["completed", "--ttl", "1h"]].concat(), "--body");
    refused(&[&lost[..], &["did-not-happen", "--body", "x"]].concat(), "leave the body out");
    refused(&[&lost[..], &["did-not-happen", "--ttl", "1h"]].concat(), "leave --ttl and --remember out");
    refused(
        &["order 01", "--scope", "charges", "--yes", "--as", "did-not-happen"],
        "only a key that is interrupted",
    );
    assert!(contents(&file) == before, "a byte was changed");
}

/// As late retries of the service's other keys are: its tombstones are part of its default policy,
/// which is not in its file.
#[test]
fn a_late_retry_of_a_key_that_a_person_resolved_is_told_and_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.idem");
    let hour = Duration::from_secs(3_600);
    let service = || Engine::options().ttl(24 * hour).tombstone_ttl(7 * 24 * hour);
    let engine = service().open(&file).unwrap();
    for key in ["remembered", "not"] {
        drop(claim(&engine, "charges", key));
    }
    engine.close().unwrap();
    let resolve = |key: &str, remember: &str| {
        let outcome = ["--as", "completed", "--body", "charged", "--ttl", "1h", "--remember", remember];
        let ran = on(&file, "resolve", &[&[key, "--scope", "charges", "--yes"], &outcome[..]].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.err
    };
    let plan = resolve("remembered", "7d");
    assert!(plan.contains("remembered for 7d in all"), "{plan}");
    let plan = resolve("not", "1h");
    assert!(plan.contains("a retry that comes after 1h runs the operation again"), "{plan}");
    let now_ms = u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let clock = ManualClock::at_millis(now_ms + 2 * 3_600_000);
    let engine = service().max_clock_jump(Duration::MAX).clock(&clock).open(&file).unwrap();
    let late = engine.scope("charges").begin("remembered", Fingerprint::of("request"));
    assert!(matches!(late, Err(BeginError::Expired(_))), "{late:?}");
    drop(claim(&engine, "charges", "not"));
}

#[test]
fn a_policy_in_the_file_gives_the_times_that_a_person_does_not() {
    let (_folder, file) = closed();
    let resolve = ["monthly", "--scope", "reports", "--as", "completed", "--body", "x", "--yes"];
    fine(&file, "resolve", &[&resolve[..], &["--remember", "1d"]].concat());
    let Status::Done(record) = status(&file, "reports", "monthly") else { panic!() };
    let after = |time: idemkv::Timestamp| time.saturating_since(record.completed()).as_secs();
    assert_eq!((after(record.expires()), after(record.remembered_until())), (7_200, 86_400));
}

/// The policy's tombstone is as long as its results are replayed, and so longer than this result.
#[test]
fn a_key_is_remembered_for_as_long_as_the_plan_says() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.idem");
    let day = Duration::from_secs(24 * 3_600);
    let engine = Engine::open(&file).unwrap();
    engine.set_policy("charges", engine.policy().ttl(day).tombstone_ttl(day)).unwrap();
    drop(claim(&engine, "charges", "key"));
    engine.close().unwrap();
    let outcome = ["--as", "completed", "--body", "charged", "--ttl", "1h", "--yes"];
    let ran = on(&file, "resolve", &[&["key", "--scope", "charges"], &outcome[..]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("remembered for 1d in all"), "{ran:?}");
    let Status::Done(record) = status(&file, "charges", "key") else { panic!() };
    let after = |time: idemkv::Timestamp| time.saturating_since(record.completed()).as_secs();
    assert_eq!((after(record.expires()), after(record.remembered_until())), (3_600, day.as_secs()));
}

#[test]
fn a_forgotten_key_is_vacant_and_no_other_is() {
    let (_folder, file) = closed();
    fine(&file, "forget", &["order 01", "--scope", "charges", "--yes"]);
    assert!(matches!(status(&file, "charges", "order 01"), Status::Vacant));
    assert!(matches!(status(&file, "charges", "order 02"), Status::Done(_)));
    assert_eq!(on(&file, "forget", &["order 01", "--scope", "charges", "--yes"]).code, 6);
    // Only of an interrupted key, what its attempt does by now is not known.
    for (key, scope, is_open) in [("order 02", "charges", false), ("lost", "refunds", true)] {
        let ran = on(&file, "forget", &[key, "--scope", scope]);
        assert_eq!((ran.code, ran.err.contains("may still be at work")), (1, is_open), "{ran:?}");
    }
}

/// By the answer its holder may have completed it, by the fence that was shown.
#[test]
fn a_key_that_is_in_flight_by_a_token_is_not_offered() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.idem");
    let engine = Engine::open(&file).unwrap();
    let jobs = engine.set_policy("jobs", engine.policy().lease(Duration::from_secs(3_600))).unwrap();
    let Begin::Fresh(claim) = jobs.begin("key", Fingerprint::of("request")).unwrap() else { panic!() };
    let _token = claim.into_token().unwrap();
    engine.close().unwrap();
    for more in [&[][..], &["--yes"]] {
        let ran = on(&file, "forget", &[&["key", "--scope", "jobs"], more].concat());
        assert!(
            ran.code == 1 && ran.err.contains("in flight") && !ran.err.contains('?'),
            "{more:?}: {ran:?}"
        );
    }
    assert!(matches!(status(&file, "jobs", "key"), Status::InFlight(_)));
}

/// The service may have chosen that its interrupted keys stay so for ever, which its file does not
/// say, but each claim does.
#[test]
fn a_key_that_the_command_finds_interrupted_stays_so_for_as_long_as_the_service_chose() {
    let (_folder, file) = killed_with(Policy::default().unresolved_forever());
    fine(&file, "forget", &["order 01", "--scope", "charges", "--yes"]);
    let clock = ManualClock::at_millis(4_000_000_000_000);
    let engine =
        Engine::options().max_clock_jump(Duration::MAX).clock(&clock).read_only().open(&file).unwrap();
    assert!(engine.now().as_millis() > 3_900_000_000_000);
    assert!(matches!(engine.scope("charges").get("in flight").unwrap(), Status::Interrupted(_)));
    assert!(matches!(engine.scope("charges").get("order 02").unwrap(), Status::Vacant));
}

#[test]
fn compacting_gives_room_back_and_keeps_every_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.idem");
    // Half an hour ago.
    let now_ms = u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let clock = ManualClock::at_millis(now_ms - 30 * 60_000);
    let engine = Engine::options().clock(&clock).stepped().open(&file).unwrap();
    fill(&engine);
    let over = Completion::new().ttl(Duration::from_secs(600));
    for number in 0..60 {
        claim(&engine, "bulk", format!("{number}")).complete_with(vec![7; 200_000], over).unwrap();
    }
    engine.close().unwrap();
    let keys = |file| fine(file, "list", &["--format", "csv"]).lines().count();
    let (listed, before) = (keys(&file), fs::metadata(&file).unwrap().len());
    fine(&file, "compact", &["--yes"]);
    let after = fs::metadata(&file).unwrap().len();
    println!("{before} bytes before, {after} after");
    assert!(before > 12_000_000 && after < 500_000);
    assert_eq!(keys(&file), listed);
    fine(&file, "verify", &[]);
}
