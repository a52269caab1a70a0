//! `stats`, `list` and `get`: what they show, and that they change nothing.

use std::fs;

use crate::helpers::{claim, closed, contents, fine, killed, on, run};
use idemkv::{Begin, Completion, Engine, Fingerprint};
use serde_json::Value;

#[test]
fn looking_changes_no_byte_of_a_closed_file_and_none_of_a_killed_one() {
    for (_folder, file) in [closed(), killed()] {
        let before = contents(&file);
        fine(&file, "stats", &[]);
        fine(&file, "stats", &["--format", "json"]);
        fine(&file, "list", &[]);
        fine(&file, "get", &["order 07", "--scope", "charges"]);
        fine(&file, "export", &[]);
        fine(&file, "verify", &[]);
        fine(&file, "doctor", &[]);
        assert!(contents(&file) == before, "a byte was changed");
    }
}

#[test]
fn keys_are_counted_by_scope_and_state() {
    let (_folder, file) = closed();
    let stats: Value = serde_json::from_str(&fine(&file, "stats", &["--format", "json"])).unwrap();
    let scope = |name: &str| {
        let scopes = stats["scopes"].as_array().unwrap();
        scopes.iter().find(|scope| scope["scope"] == name).unwrap_or_else(|| panic!("{stats}")).clone()
    };
    assert_eq!(
        (scope("charges")["done"].as_u64(), scope("charges")["interrupted"].as_u64()),
        (Some(21), Some(0))
    );
    assert_eq!(
        (scope("refunds")["done"].as_u64(), scope("refunds")["interrupted"].as_u64()),
        (Some(0), Some(1))
    );
    assert_eq!(stats["policies"], 1);
    let text = fine(&file, "stats", &[]);
    assert!(text.contains("\"charges\"") && text.contains("policies of their own: 1"), "{text}");
}

#[test]
fn a_scope_in_json_is_its_name_in_every_subcommand() {
    let (folder, names) = (tempfile::tempdir().unwrap(), [&b"back\\slash"[..], b"\xff"]);
    let file = folder.path().join("x.idem");
    let engine = Engine::open(&file).unwrap();
    for name in names {
        let Begin::Fresh(claim) = engine.scope(name).begin("key", Fingerprint::of("request")).unwrap() else {
            panic!()
        };
        claim.complete("made").unwrap();
    }
    engine.close().unwrap();
    let stats: Value = serde_json::from_str(&fine(&file, "stats", &["--format", "json"])).unwrap();
    let listed = fine(&file, "list", &["--format", "json"]);
    for fields in [
        stats["scopes"].as_array().unwrap().clone(),
        listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>(),
    ] {
        assert!(fields.iter().any(|field| field["scope"] == "back\\slash"), "{fields:?}");
        assert!(fields.iter().any(|field| field["scope_hex"] == "ff"), "{fields:?}");
    }
}

#[test]
fn a_body_that_was_not_kept_is_no_empty_body() {
    let (folder, how) = (tempfile::tempdir().unwrap(), Completion::new().discard_body());
    let file = folder.path().join("x.idem");
    let engine = Engine::open(&file).unwrap();
    claim(&engine, "", "empty").complete("").unwrap();
    claim(&engine, "", "not kept").complete_with("secret", how).unwrap();
    engine.close().unwrap();
    assert_eq!(on(&file, "get", &["empty", "--body"]).code, 0);
    let ran = on(&file, "get", &["not kept", "--body"]);
    assert!(ran.code == 6 && ran.err.contains("was not kept"), "{ran:?}");
}

/// Clients choose keys, and spreadsheets run formulas.
#[test]
fn no_name_in_csv_is_a_formula_and_each_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.idem");
    let engine = Engine::open(&file).unwrap();
    let keys = ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "a;=1", "a; \";@1"];
    for key in keys {
        claim(&engine, "=scope", key).complete(key).unwrap();
    }
    engine.close().unwrap();
    let csv = fine(&file, "list", &["--format", "csv"]);
    let mut bodies = Vec::new();
    for line in csv.lines().skip(1) {
        let is_formula = |cell: &str| cell.trim_start_matches(['"', ' ']).starts_with(['=', '+', '-', '@']);
        // Some spreadsheets separate cells by the one, others by the other.
        assert!(!line.split([',', ';']).any(is_formula), "{line}");
        let unquoted = |cell: &str| cell[1..cell.len() - 1].replace("\"\"", "\"");
        let cells: Vec<String> = line.split(',').map(unquoted).collect();
        bodies.push(fine(&file, "get", &[&cells[1], "--scope", &cells[0], "--body"]));
    }
    bodies.sort_unstable();
    assert_eq!(bodies, ["+1", "-1", "=HYPERLINK(1)", "@SUM(1)", "a; \";@1", "a;=1"]);
}

#[test]
fn a_list_is_filtered_by_scope_state_prefix_and_age() {
    let (_folder, file) = closed();
    let count = |arguments: &[&str]| {
        let arguments = [arguments, &["--format", "json"]].concat();
        fine(&file, "list", &arguments).lines().count()
    };
    assert_eq!(count(&[]), 24);
    assert_eq!(count(&["--scope", "charges"]), 21);
    assert_eq!(count(&["--state", "interrupted"]), 2);
    assert_eq!(count(&["--state", "interrupted,done"]), 24);
    assert_eq!(count(&["--prefix", "order 1"]), 10);
    assert_eq!((count(&["--older", "1h"]), count(&["--younger", "1h"])), (0, 24));
    let table = on(&file, "list", &["--limit", "3"]);
    assert!(table.err.contains("21 keys more"), "{table:?}");
    let csv = fine(&file, "list", &["--format", "csv", "--scope", "refunds"]);
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines[0], r#""scope","key","hash","state","outcome","attempt","since","bytes""#);
    assert!(lines[1].starts_with(r#""refunds","lost","#) && lines.len() == 2, "{csv}");
}

#[test]
fn a_key_is_found_by_its_name_and_by_the_hash_that_logs_show() {
    let (_folder, file) = closed();
    let engine = Engine::options().read_only().open(&file).unwrap();
    let hash = engine.scope("charges").key_hash("order 07").unwrap().to_string();
    engine.close().unwrap();
    let by_name = fine(&file, "get", &["order 07", "--scope", "charges"]);
    assert!(by_name.contains("charged 7") && by_name.contains(&hash), "{by_name}");
    let json = |choice: &[&str]| fine(&file, "get", &[choice, &["--format", "json"]].concat());
    assert_eq!(json(&["--hash", &hash]), json(&["order 07", "--scope", "charges"]));
    assert_eq!(fine(&file, "get", &["--hash", &hash, "--body"]), "charged 7");
    assert_eq!(on(&file, "get", &["--hash", &hash, "--scope", "refunds"]).code, 6);
}

/// Clients choose keys, and handlers' bodies come from anywhere.
#[test]
fn no_key_and_no_body_reaches_a_terminal_as_a_command() {
    let (_folder, file) = closed();
    let escaped = r"\u{1b}[2J\xffevil\u{d}\u{a}\u{202e}gpj.exe";
    let shown = [
        fine(&file, "list", &[]),
        fine(&file, "list", &["--format", "json"]),
        fine(&file, "list", &["--format", "csv"]),
        fine(&file, "export", &[]),
        fine(&file, "get", &[escaped]),
        fine(&file, "get", &[escaped, "--format", "json"]),
    ];
    for text in &shown {
        let obeyed = |letter: char| letter.is_control() && letter != '\n' || letter == '\u{202e}';
        assert!(!text.contains(obeyed), "{text:?}");
    }
    let get: Value = serde_json::from_str(&shown[5]).unwrap();
    assert_eq!(get["key_hex"], "1b5b324aff6576696c0d0ae280ae67706a2e657865");
}

#[test]
fn what_goes_wrong_has_an_exit_code_of_its_own() {
    let (folder, file) = closed();
    assert_eq!(on(&file, "get", &["no such key"]).code, 6);
    assert_eq!(on(&folder.path().join("none.idem"), "stats", &[]).code, 1);
    assert!(!folder.path().join("none.idem").exists());
    assert_eq!(run(["no-such-subcommand"]).code, 2);
    assert_eq!(on(&file, "get", &[]).code, 2);
    fs::write(folder.path().join("other"), "something else").unwrap();
    assert_eq!(on(&folder.path().join("other"), "stats", &[]).code, 3);
    let _engine = Engine::open(&file).unwrap();
    for subcommand in ["stats", "list", "export", "verify", "compact"] {
        let ran = on(&file, subcommand, &[]);
        assert_eq!(ran.code, 5, "{ran:?}");
        assert!(ran.err.contains("operator's page") && ran.err.contains("look at the backup"), "{ran:?}");
    }
}
