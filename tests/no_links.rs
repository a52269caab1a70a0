//! A file system without hard links: exFAT, mounted for one process where that may be done.

#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

use idemkv::{Begin, Engine, Fingerprint, OpenError};

const DIRECTORY: &str = "IDEMKV_NO_LINKS";
/// Mounts a new exFAT at `$0`, runs the arguments, and takes it away.
const MOUNT: &str = r#"
truncate -s 64M "$0.image" && mkfs.exfat "$0.image" && device=$(losetup -f --show "$0.image") || exit 1
mount.exfat-fuse "$device" "$0" && { "$@"; said=$?; umount "$0"; }
losetup -d "$device"
exit "${said:-1}"
"#;

#[test]
fn a_file_is_made_and_backed_up_where_there_are_no_hard_links() {
    let directory = tempfile::tempdir().unwrap();
    let mount = directory.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    let has_exfat = Command::new("unshare").args(["-m", "sh", "-c", MOUNT]).arg(&mount).arg("true").output();
    if !has_exfat.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: needs exfatprogs, exfat-fuse, a loop device, and the right to mount");
        return;
    }
    let itself = std::env::current_exe().unwrap();
    let mut run = Command::new("unshare");
    run.args(["-m", "sh", "-c", MOUNT]).arg(&mount).arg(itself);
    run.args(["--exact", "within_the_mount", "--nocapture"]).env(DIRECTORY, &mount);
    let output = run.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Not a test: what the process does for which the file system was mounted. Returns at once where
/// nobody ordered one.
#[test]
fn within_the_mount() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    std::fs::write(directory.join("a"), "a").unwrap();
    assert!(
        std::fs::hard_link(directory.join("a"), directory.join("b")).is_err(),
        "there are links after all"
    );
    let (path, copy) = (directory.join("x.idem"), directory.join("copy.idem"));
    let engine = Engine::open(&path).unwrap();
    let request = Fingerprint::of("request");
    let Ok(Begin::Fresh(claim)) = engine.default_scope().begin("key", request) else { panic!("it is new") };
    claim.complete("reply").unwrap();
    assert!(matches!(Engine::open(&path), Err(OpenError::Locked(_))));
    engine.backup(&copy).unwrap();
    assert!(engine.backup(&copy).is_err(), "no backup replaces a file");
    engine.close().unwrap();
    for path in [&path, &copy] {
        assert_done(path);
    }
    // A kill between the reservation of the name and the rename.
    let new = directory.join("y.idem");
    std::fs::write(&new, "").unwrap();
    std::fs::write(directory.join("y.idem-unfinished"), "half of it").unwrap();
    Engine::open(&new).unwrap().close().unwrap();
    let left = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(
        left.filter(|name| name.to_string_lossy().ends_with("-unfinished")).count() == 0,
        "nothing half made is left"
    );
}

fn assert_done(path: &Path) {
    let engine = Engine::open(path).unwrap();
    let begun = engine.default_scope().begin("key", Fingerprint::of("request")).unwrap();
    assert!(matches!(begun, Begin::Done(record) if record.body() == b"reply"), "{}", path.display());
    engine.close().unwrap();
}
