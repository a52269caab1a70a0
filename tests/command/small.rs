//! `completions`, `man` and `bench`.

use crate::helpers::run;

#[test]
fn every_shell_has_completions_and_every_subcommand_a_page() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(["completions", shell]);
        assert!(ran.code == 0 && ran.out.contains("idemkv") && ran.out.contains("restore"), "{ran:?}");
    }
    assert!(run(["man"]).out.contains("idemkv"));
    let page = run(["man", "restore"]);
    assert!(page.code == 0 && page.out.contains("dry"), "{page:?}");
    assert_eq!(run(["man", "nothing"]).code, 1);
}

#[test]
fn a_bench_measures_disk_and_engine_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run(["bench", folder.path().to_str().unwrap(), "--span", "50ms", "--threads", "4"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for part in ["this disk", "1 thread: claim", "replay", "4 threads"] {
        assert!(ran.out.contains(part), "{ran:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
