//! `copy`, into a `PostgreSQL` that the test starts.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};

use idemkv::{Begin, Engine, Fingerprint, OpenError};

use crate::helpers::{closed, contents, on};
use crate::server;

#[test]
fn keys_are_copied_once_they_are_agreed_to_and_into_new_tables_alone() {
    let Some(server) = server::get() else {
        eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
        return;
    };
    let (_folder, file) = closed();
    // As docs/shared.md says: no process opens it for changes any more.
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    assert!(matches!(Engine::open(&file), Err(OpenError::ReadOnly(_))));
    let (before, url) = (contents(&file), server.url());
    let ran = on(&file, "copy", &[&url, "--schema", "commanded"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.err.contains("into the schema \"commanded\" of 127.0.0.1:")
            && ran.err.contains("/postgres; 2")
            && ran.err.contains("nobody to ask"),
        "{ran:?}"
    );
    assert_eq!(server.one("SELECT to_regclass('commanded.keys') IS NULL"), "t");

    // The address can have a password, so it is not among the arguments.
    let mut copying = Command::new(env!("CARGO_BIN_EXE_idemkv"));
    let words = ["-", "--schema", "commanded", "--yes"].map(OsStr::new);
    copying.arg("copy").arg(&file).args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut copying = copying.spawn().unwrap();
    copying.stdin.take().unwrap().write_all(format!("{url}\n").as_bytes()).unwrap();
    let output = copying.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("1 policies"), "{said}");
    assert!(contents(&file) == before, "the file is as it was");

    let store = server.connect("commanded");
    let answer = store.scope("charges").begin("order 01", Fingerprint::of("request")).unwrap();
    assert!(matches!(answer, Begin::Done(record) if record.body() == b"charged 1"));
    drop(store);
    let ran = on(&file, "copy", &[&url, "--schema", "commanded", "--yes"]);
    assert!(ran.code == 1 && ran.err.contains("copied into these tables before"), "{ran:?}");
}

#[test]
fn tables_are_brought_up_to_this_version_once_it_is_agreed_to() {
    let Some(server) = server::get() else {
        eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
        return;
    };
    server.connect("migrated").close().unwrap();
    server.sql(
        "DROP TABLE migrated.places; ALTER TABLE migrated.policies DROP COLUMN max_in_flight; \
         UPDATE migrated.meta SET version = 3",
    );
    let migrate = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_idemkv"));
        command.args(["migrate", &server.url(), "--schema", "migrated"]).args(more).stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, _, err) = migrate(&[]);
    assert!(
        code == 1 && err.contains("\"migrated\" of 127.0.0.1:") && err.contains("nobody to ask"),
        "{err}"
    );
    assert_eq!(server.one("SELECT version FROM migrated.meta"), "3");
    let (code, said, err) = migrate(&["--yes"]);
    assert!(code == 0 && said.contains("had version 3"), "{said} {err}");
    let (code, said, _) = migrate(&["--yes"]);
    assert!(code == 0 && said.contains("nothing was done"), "{said}");
    assert_eq!(server.one("SELECT version FROM migrated.meta"), "4");
}
