//! Files that another process, or another engine of this one, has open.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};

use crate::helpers::{
    assert_done, assert_says, claim, make_file, refused, refused_and_unchanged, run_again, small,
};
use idemkv::OpenError;

const HOLD_VARIABLE: &str = "IDEMKV_HOLD_FILE";

/// Not a test: a process that holds a file until its input ends. Returns at once where nobody
/// ordered one.
#[test]
fn holder_process() {
    let Some(path) = std::env::var_os(HOLD_VARIABLE) else { return };
    let engine = small().open(path).unwrap();
    println!("\n@held");
    io::stdin().read_line(&mut String::new()).unwrap();
    engine.close().unwrap();
}

#[test]
fn a_file_that_another_process_holds_is_refused_until_it_lets_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    make_file(&path);
    let mut holder = run_again("in_use::holder_process", &[(HOLD_VARIABLE, path.to_str().unwrap())]);
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "@held"));
    let error = refused_and_unchanged(&path, small());
    assert!(matches!(&error, OpenError::Locked(found) if *found == path), "{error}");
    assert_says(&error, &["is open in another engine", "one process at a time", "close the other"]);
    holder.stdin.take().unwrap().write_all(b"enough\n").unwrap();
    lines.for_each(drop);
    assert!(holder.wait().unwrap().success());
    assert_done(&small().open(&path).unwrap(), "key", b"reply");
}

#[test]
fn a_file_that_another_engine_of_this_process_holds_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    let engine = small().open(&path).unwrap();
    let other_name = directory.path().join("y.idem");
    fs::hard_link(&path, &other_name).unwrap();
    for name in [&path, &other_name] {
        let error = refused(small().open(name));
        assert!(matches!(&error, OpenError::Locked(found) if found == name), "{error}");
    }
    claim(&engine, "key").complete("reply").unwrap();
    engine.close().unwrap();
    assert_done(&small().open(&path).unwrap(), "key", b"reply");
}
