//! Every test that a document names is there.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names of all functions in the sources below a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let names = source.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(names.map(str::to_owned));
        }
    }
}

/// The names of tests in a document: those in code after `::`, of four words or more.
fn named(document: &str) -> impl Iterator<Item = &str> {
    let code = document.split('`').skip(1).step_by(2);
    let names = code.filter_map(|code| code.rsplit_once("::").map(|(_, name)| name));
    names.filter(|name| {
        name.matches('_').count() >= 3
            && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric() && !c.is_ascii_uppercase())
    })
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut there = BTreeSet::new();
    functions(&root.join("src"), &mut there);
    functions(&root.join("tests"), &mut there);
    let mut looked_at = 0;
    for document in
        ["README.md", "docs/architecture.md", "docs/design.md", "docs/performance.md", "docs/reliability.md"]
    {
        let text = fs::read_to_string(root.join(document)).unwrap();
        for name in named(&text) {
            assert!(there.contains(name), "{document} names `{name}`, which is not there");
            looked_at += 1;
        }
    }
    assert!(looked_at > 200, "{looked_at}");
}

/// Two changes of one row at a time leave both where they are put together without a look.
#[test]
fn no_table_of_the_readme_has_two_rows_of_one_name() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let mut table = BTreeSet::new();
    let mut rows = 0;
    for line in readme.lines() {
        let name = line.strip_prefix("| ").and_then(|row| row.split(" | ").next());
        match name {
            // Figures of one thing may have several rows.
            Some(name) if name.starts_with('`') || name.contains(' ') => {
                let is_durability = name.starts_with("`Full`")
                    || name.starts_with("`Completions`")
                    || name.starts_with("`Relaxed");
                assert!(table.insert(name) || is_durability, "two rows are called {name:?}");
                rows += 1;
            }
            Some(_) => {}
            None => table.clear(),
        }
    }
    assert!(rows > 100, "{rows}");
}
