//! What the documents refer to is there: tests, files and sections. No row of a table is there
//! twice.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The tests in a document, as their place and their name: those in code after `::`, of four words
/// or more, after a module or a file.
fn named(document: &str) -> impl Iterator<Item = (&str, &str)> {
    let code = document.split('`').skip(1).step_by(2);
    code.filter_map(|code| code.rsplit_once("::")).filter(|(place, name)| {
        place.starts_with(|c: char| c.is_ascii_lowercase())
            && name.matches('_').count() >= 3
            && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric() && !c.is_ascii_uppercase())
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The README, the changelog, and all of `docs/`.
fn documents() -> Vec<String> {
    let mut documents = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
            documents.push(format!("docs/{name}"));
        }
    }
    assert!(documents.len() > 8, "{documents:?}");
    documents
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// The names that lead to a file: `store/tests/rows.rs` as `store`, `tests`, `rows`. A module's own
/// file has the folder's name.
fn words(place: &str) -> Vec<&str> {
    let mut words: Vec<&str> = place.split(['/', ':']).filter(|word| !word.is_empty()).collect();
    if let Some(last) = words.last_mut() {
        *last = last.strip_suffix(".rs").unwrap_or(last);
    }
    if words.len() > 1 && matches!(words.last(), Some(&("mod" | "main"))) {
        words.pop();
    }
    words
}

/// All sources below a folder, by their path within it.
fn sources(folder: &Path, within: &str, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder.join(within)).unwrap() {
        let path = entry.unwrap().path();
        let relative = path.strip_prefix(folder).unwrap().to_str().unwrap();
        if path.is_dir() {
            sources(folder, relative, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((relative.to_owned(), fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Whether a place leads to this file: by the last names of its path, or by the module `tests` in
/// it.
fn leads_to(place: &str, file: &str) -> bool {
    let file = words(file);
    let place = words(place.trim_start_matches("src/").trim_start_matches("tests/"));
    let inner = match place.split_last() {
        Some((&"tests", outer)) if !outer.is_empty() => outer,
        _ => &place,
    };
    file.ends_with(&place) || file.ends_with(inner)
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let mut all = Vec::new();
    sources(&root().join("src"), "", &mut all);
    sources(&root().join("tests"), "", &mut all);
    let mut looked_at = 0;
    for document in &documents() {
        for (place, name) in named(&read(document)) {
            let is_it = format!("fn {name}");
            let is_there =
                |(file, source): &(String, String)| leads_to(place, file) && source.contains(&is_it);
            assert!(all.iter().any(is_there), "{document} names `{place}::{name}`, which is not there");
            looked_at += 1;
        }
    }
    assert!(looked_at > 200, "{looked_at}");
}

/// The lines of a document that are not in a block of code.
fn prose(document: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    document.lines().filter(move |line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The anchors of a document's headings, as they are made where documents are shown.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = prose(document).filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        heading.chars().filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c)).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_of_a_document_leads_to_a_file_and_a_section() {
    let mut looked_at = 0;
    for document in &documents() {
        let text = read(document);
        let prose = prose(&text).collect::<Vec<_>>().join("\n");
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let path = match file {
                "" => root().join(document),
                file => root().join(document).with_file_name("").join(file),
            };
            assert!(path.exists(), "{document} links to {link}, which is not there");
            if !anchor.is_empty() {
                let target = fs::read_to_string(&path).unwrap();
                assert!(anchors(&target).contains(anchor), "{document} links to {link}: no such section");
            }
            looked_at += 1;
        }
    }
    assert!(looked_at > 50, "{looked_at}");
}

/// Two changes of one row at a time leave both where they are put together without a look.
#[test]
fn no_table_has_two_rows_of_one_name() {
    let mut rows = 0;
    for document in
        ["README.md", "docs/guide.md", "docs/operations.md", "docs/guarantees.md", "docs/state-machine.md"]
    {
        let (mut in_table, mut in_document) = (BTreeSet::new(), BTreeSet::new());
        for line in read(document).lines() {
            let name = line.strip_prefix("| ").and_then(|row| row.split(" | ").next());
            match name {
                Some(name) if name.starts_with('`') || name.contains(' ') => {
                    // Tables of errors and of promises are one table, with headings in between.
                    let is_one = name.contains("::") || document == "docs/guarantees.md";
                    let names = if is_one { &mut in_document } else { &mut in_table };
                    assert!(names.insert(name.to_owned()), "{document}: two rows are called {name:?}");
                    rows += 1;
                }
                Some(_) => {}
                None => in_table.clear(),
            }
        }
    }
    assert!(rows > 200, "{rows}");
}
