//! What people are told when something is refused, and what a refusal leaves behind: nothing.

use std::fs;
use std::path::Path;

use idemkv::sim::{DiskFault, ManualClock, SimDisk};
use idemkv::{
    Begin, BeginError, EndError, Engine, Fingerprint, KeyError, OpenError, Options, Policy, Recovery, Status,
};

fn request() -> Fingerprint {
    Fingerprint::of("request")
}

fn complete(engine: &Engine, key: impl AsRef<[u8]>) {
    let Begin::Fresh(claim) = engine.default_scope().begin(key, request()).unwrap() else {
        panic!("it was not fresh")
    };
    claim.complete("reply").unwrap();
}

fn simulated(disk: &SimDisk) -> Options {
    Engine::options().disk(disk).clock(&ManualClock::at_millis(1_800_000_000_000)).stepped().seed(5)
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_damaged_first_page_beside_a_log_of_ours_is_damage_and_no_other_path_is_advised() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    complete(&engine, "key");
    engine.close().unwrap();
    let whole = fs::read(&path).unwrap();
    for damaged in [vec![0; whole.len()], Vec::new(), b"not a database at all".to_vec()] {
        fs::write(&path, &damaged).unwrap();
        let error = Engine::open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Damaged(_)), "{error}");
        assert!(
            error.to_string().contains("its first page") && error.to_string().contains("restore"),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), damaged, "it was changed");
    }
    // Without its log nobody can tell. Both are said, and no path is advised under which nothing
    // is known.
    fs::remove_file(dir.path().join("x.idem-wal")).unwrap();
    let error = Engine::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::NotIdemkv(_)), "{error}");
    assert!(
        error.to_string().contains("damaged") && !error.to_string().contains("give another path"),
        "{error}"
    );
}

#[test]
fn an_empty_path_is_refused_before_anything_is_made() {
    let before = names_in(Path::new("."));
    assert!(matches!(Engine::open(""), Err(OpenError::NoPath)));
    assert_eq!(names_in(Path::new(".")), before);
}

#[test]
fn a_name_whose_log_would_have_too_long_a_name_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    for len in 233..=255 {
        let path = dir.path().join("n".repeat(len));
        match Engine::open(&path) {
            Ok(engine) => {
                assert!(len <= 240, "{len}");
                complete(&engine, "key");
                engine.close().unwrap();
                fs::remove_file(&path).unwrap();
                fs::remove_file(format!("{}-wal", path.display())).unwrap();
            }
            Err(error) => {
                assert!(len > 240, "{len}: {error}");
                assert!(matches!(error, OpenError::NameTooLong { max: 240, .. }), "{error}");
            }
        }
        assert_eq!(names_in(dir.path()), Vec::<String>::new(), "of a name of {len} bytes");
    }
}

#[test]
fn a_file_that_somebody_called_new_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let [path, other] = ["x.idem", "x.idem-new"].map(|name| dir.path().join(name));
    // Such as a backup that is about to be put in the place of the file.
    let engine = Engine::open(&other).unwrap();
    complete(&engine, "key");
    engine.close().unwrap();
    Engine::open(&path).unwrap().close().unwrap();
    let engine = Engine::open(&other).unwrap();
    assert!(matches!(engine.default_scope().get("key"), Ok(Status::Done(_))));
}

#[test]
fn a_creation_that_fails_at_any_operation_leaves_no_file_that_is_being_made() {
    for fault in [DiskFault::Full, DiskFault::Error] {
        for at in 0.. {
            let disk = SimDisk::new();
            disk.fault_at(at, fault);
            let opened = simulated(&disk).open("x.idem");
            let is_over = opened.is_ok();
            drop(opened);
            for name in ["x.idem-unfinished", "x.idem-wal-unfinished"] {
                assert!(disk.read(Path::new(name)).is_none(), "{name} is left by {fault:?} at {at}");
            }
            if is_over {
                assert!(at > 5, "nothing failed");
                break;
            }
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_path_below_a_missing_directory_says_so() {
    let error = Engine::open("/no such directory/x.idem").unwrap_err();
    assert!(error.to_string().contains("make the directory"), "{error}");
}

#[test]
fn a_key_from_when_the_limit_was_higher_can_be_looked_at_replayed_resolved_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let (done, lost, other) = ("d".repeat(4_096), "l".repeat(4_096), "o".repeat(4_096));
    let options = || {
        Engine::options()
            .max_body_bytes(1_000)
            .reserve_bytes(0)
            .policy(Policy::default().recovery(Recovery::Refuse))
    };
    let engine = options().max_key_bytes(4_096).open(&path).unwrap();
    complete(&engine, &done);
    drop(engine.default_scope().begin(&lost, request()));
    drop(engine.default_scope().begin(&other, request()));
    engine.close().unwrap();

    let engine = options().max_key_bytes(10).open(&path).unwrap();
    assert!(matches!(engine.default_scope().begin(&done, request()).unwrap(), Begin::Done(_)));
    assert!(matches!(engine.default_scope().get(&done).unwrap(), Status::Done(_)));
    let listed = engine.entries().filter(|entry| entry.as_ref().unwrap().key().len() == 4_096).count();
    assert_eq!(listed, 3);
    assert!(matches!(engine.default_scope().begin(&lost, request()), Err(BeginError::Unresolved(_))));
    let claim = engine.scope("").resolve(&lost).unwrap();
    let claim = claim.complete([7; 1_000]).unwrap_err().into_claim().unwrap();
    claim.complete("").unwrap();
    assert!(engine.default_scope().forget(&other).unwrap());
    assert!(engine.default_scope().forget(&done).unwrap());
    // New claims keep to the limit of today.
    for refused in [&done, &"n".repeat(11)] {
        let refused = engine.default_scope().begin(refused, request());
        assert!(matches!(refused, Err(BeginError::Key(KeyError::TooLong { max: 10, .. }))), "{refused:?}");
    }
    engine.close().unwrap();
}

#[test]
fn closing_on_a_full_disk_says_so_lets_go_of_the_file_and_loses_nothing() {
    let disk = SimDisk::new();
    let engine = simulated(&disk).open("x.idem").unwrap();
    // More than the file has free pages for.
    for number in 0..1_500 {
        let Begin::Fresh(claim) = engine.default_scope().begin(format!("key {number}"), request()).unwrap()
        else {
            panic!()
        };
        claim.complete([7; 4_000]).unwrap();
    }
    disk.set_capacity(Some(disk.used()));
    let failure = engine.clone().close().unwrap_err();
    let says = failure.to_string();
    assert!(says.contains("disk is full") && says.contains("nothing acknowledged is lost"), "{says}");
    assert_eq!(engine.close().unwrap_err().to_string(), says, "the second close says the same");

    disk.set_capacity(None);
    let engine = simulated(&disk).open("x.idem").unwrap();
    for number in 0..1_500 {
        assert!(matches!(engine.default_scope().get(format!("key {number}")).unwrap(), Status::Done(_)));
    }
    engine.close().unwrap();
}

#[test]
fn debug_output_is_short_and_gives_neither_key_nor_body_nor_scope_secrets_away() {
    let dir = tempfile::tempdir().unwrap();
    let engine =
        Engine::options().max_body_bytes(100).reserve_bytes(0).open(dir.path().join("x.idem")).unwrap();
    let scope = engine.scope("s".repeat(200));
    let begin = scope.begin("secret key", request()).unwrap();
    let mut all = vec![format!("{begin:?}"), format!("{:?}", scope.begin("secret key", request()).unwrap())];
    let Begin::Fresh(claim) = begin else { panic!() };
    let hash = claim.key_hash().to_string();
    assert_eq!(hash.len(), 8);
    all.extend([format!("{claim:?}"), format!("{scope:?}"), format!("{engine:?}")]);
    all.extend(engine.entries().map(|entry| format!("{:?}", entry.unwrap())));
    let error: EndError = claim.complete("secret body".repeat(10)).unwrap_err();
    all.push(format!("{error:?}"));
    let record = error.into_claim().unwrap().complete("secret body").unwrap();
    all.extend([format!("{record:?}"), format!("{:?}", record.clone().into_body())]);
    all.push(format!("{:?}", scope.get("secret key").unwrap()));
    for text in &all {
        assert!(text.len() < 200 && !text.contains("secret"), "{} bytes: {text}", text.len());
    }
    let named = all.iter().filter(|text| text.contains(&hash)).count();
    assert_eq!(named, 6, "of {all:#?}");
}

#[test]
fn what_people_print_is_readable_and_has_no_key_in_it() {
    let engine = simulated(&SimDisk::new()).open("x.idem").unwrap();
    let status = || engine.default_scope().get("secret key").unwrap().to_string();
    assert_eq!(status(), "vacant");
    let Begin::Fresh(claim) = engine.scope("").begin("secret key", request()).unwrap() else { panic!() };
    assert_eq!(claim.scope(), b"");
    assert!(status().starts_with("in flight: attempt 1 with fence "), "{}", status());
    drop(claim);
    assert!(status().starts_with("interrupted: attempt 1 with fence "), "{}", status());
    let claim = engine.scope("").resolve("secret key").unwrap();
    let waits = engine.default_scope().begin("secret key", request()).unwrap();
    claim.fail("declined").unwrap();
    assert!(status().starts_with("done: failure, completed 1800000000000 ms"), "{}", status());
    let Begin::InFlight(pending) = waits else { panic!() };
    assert_eq!(pending.wait().unwrap().to_string(), "done: failure");
}
