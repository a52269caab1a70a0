//! No two files of `src/` import each other, directly or around a ring: the architecture is a
//! list, from what knows nothing to what knows all. Names the ring where there is one.
//!
//! Read from the sources: `use` declarations, and paths in the code that start with `crate`,
//! `super` or `self`. A re-export (`pub use`) is no import of the file that has it: the path leads
//! on to the file that defines the name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module's path from the crate's root; the root itself is empty.
type Module = Vec<String>;

#[derive(Default)]
struct Sources {
    /// What each file imports, as paths from the root.
    paths: BTreeMap<Module, BTreeSet<Vec<String>>>,
    /// Names that a module re-exports, and where they lead.
    exports: BTreeMap<(Module, String), Vec<String>>,
}

/// Words and signs, without comments and literals.
fn tokens(source: &str) -> Vec<String> {
    let (mut tokens, mut rest) = (Vec::new(), source);
    while let Some(first) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            3 + raw.find("\"#").unwrap() + 2
        } else if first == '"' {
            let mut end = 1;
            while !rest[end..].starts_with('"') {
                end += usize::from(rest[end..].starts_with('\\'));
                end += rest[end..].chars().next().map_or(0, char::len_utf8);
            }
            end + 1
        } else if first.is_alphabetic() || first == '_' {
            let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(rest[..len].to_owned());
            len
        } else if first == '\'' {
            // A character, or a lifetime.
            let close = rest[1..].char_indices().nth(usize::from(rest[1..].starts_with('\\')) + 1);
            match close {
                Some((at, '\'')) => at + 2,
                _ => 1,
            }
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[skip..];
    }
    tokens
}

/// Leaves out what is compiled for tests alone.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < words.len() {
        if words[at..].starts_with(&["#", "[", "cfg", "(", "test", ")", "]"]) || is_test_cfg(&words[at..]) {
            at = end_of_item(&words, at);
        } else {
            kept.push(words[at].to_owned());
            at += 1;
        }
    }
    kept
}

fn is_test_cfg(words: &[&str]) -> bool {
    words.starts_with(&["#", "[", "cfg", "(", "all", "(", "test"])
}

/// Where the item, field or arm ends whose attributes start here: behind its `;`, its braces or
/// its comma.
fn end_of_item(words: &[&str], start: usize) -> usize {
    const ITEMS: [&str; 9] = ["fn", "impl", "mod", "struct", "enum", "trait", "use", "const", "type"];
    let (mut depth, mut at, mut is_item) = (0_usize, start, false);
    while let Some(word) = words.get(at) {
        match *word {
            "}" | ")" | "]" if depth == 0 => break,
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            word => is_item |= ITEMS.contains(&word),
        }
        at += 1;
        if depth == 0 && (matches!(*word, ";" | "}") || *word == "," && !is_item) {
            break;
        }
    }
    at
}

/// All paths of a `use` tree that starts behind `prefix`, with the words that it took.
fn use_tree(words: &[String], at: &mut usize, prefix: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let mut path = prefix.to_vec();
    while let Some(word) = words.get(*at) {
        *at += 1;
        match word.as_str() {
            "::" => {}
            "{" => {
                while words.get(*at).is_some_and(|word| !matches!(word.as_str(), "}" | ";")) {
                    use_tree(words, at, &path, found);
                    if words.get(*at).is_some_and(|word| word == ",") {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            "as" => {
                found.push((path, words[*at].clone()));
                *at += 1;
                return;
            }
            "," | "}" | ";" => {
                *at -= 1;
                break;
            }
            word => path.push(word.to_owned()),
        }
    }
    if path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let name = path.last().cloned().unwrap_or_default();
    found.push((path, name));
}

/// A path from the root; `None` for one of another crate.
fn from_root(module: &Module, path: &[String], children: &BTreeSet<Module>) -> Option<Vec<String>> {
    let mut base = module.clone();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => return Some(path[1..].to_vec()),
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|word| word == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        first => {
            let child = [base.as_slice(), &[first.to_owned()]].concat();
            if !children.contains(&child) {
                return None;
            }
        }
    }
    base.extend(rest.iter().cloned());
    Some(base)
}

impl Sources {
    fn read(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        collect(root, &Module::new(), &mut files);
        let modules: BTreeSet<Module> = files.keys().cloned().collect();
        let mut sources = Self::default();
        for (module, text) in &files {
            sources.read_file(module, &without_tests(&tokens(text)), &modules);
        }
        sources
    }

    fn read_file(&mut self, module: &Module, words: &[String], modules: &BTreeSet<Module>) {
        let mut paths = BTreeSet::new();
        let (mut at, mut is_public) = (0, false);
        while let Some(word) = words.get(at) {
            at += 1;
            match word.as_str() {
                "pub" => {
                    is_public = true;
                    if words.get(at).is_some_and(|word| word == "(") {
                        at += 1 + words[at..].iter().position(|word| word == ")").unwrap();
                    }
                    continue;
                }
                // Not the `use<..>` of a type.
                "use" if words.get(at).is_some_and(|word| word != "<") => {
                    let mut found = Vec::new();
                    use_tree(words, &mut at, &[], &mut found);
                    for (path, name) in found {
                        let Some(path) = from_root(module, &path, modules) else { continue };
                        if is_public {
                            self.exports.insert((module.clone(), name), path);
                        } else {
                            paths.insert(path);
                        }
                    }
                }
                "crate" | "super" if words.get(at).is_some_and(|word| word == "::") => {
                    let mut path = vec![word.clone()];
                    while words.get(at).is_some_and(|word| word == "::") && words.get(at + 1).is_some() {
                        path.push(words[at + 1].clone());
                        at += 2;
                    }
                    paths.extend(from_root(module, &path, modules));
                }
                _ => {}
            }
            is_public = false;
        }
        self.paths.insert(module.clone(), paths);
    }

    /// The file that defines what a path leads to.
    fn owner(&self, path: &[String], depth: usize) -> Option<Module> {
        let (module, rest) = (0..=path.len()).rev().find_map(|len| {
            let (module, rest) = path.split_at(len);
            self.paths.contains_key(module).then_some((module, rest))
        })?;
        let led = rest.first().and_then(|name| self.exports.get(&(module.to_vec(), name.clone())));
        match led {
            Some(path) if depth > 0 => self.owner(&[path.as_slice(), &rest[1..]].concat(), depth - 1),
            _ => Some(module.to_vec()),
        }
    }

    fn imports(&self, module: &Module) -> BTreeSet<Module> {
        let owners = self.paths[module].iter().filter_map(|path| self.owner(path, 5));
        owners.filter(|owner| owner != module && !owner.is_empty()).collect()
    }

    /// A shortest ring, if there is one.
    fn ring(&self) -> Option<Vec<Module>> {
        let imports: BTreeMap<_, _> =
            self.paths.keys().map(|module| (module, self.imports(module))).collect();
        let ring_from = |start: &Module| {
            let (mut from, mut queue) = (BTreeMap::new(), vec![start.clone()]);
            let mut next = 0;
            while let Some(module) = queue.get(next).cloned() {
                next += 1;
                for import in imports.get(&module)? {
                    if import == start {
                        let mut ring = vec![module.clone()];
                        while let Some(before) = from.get(ring.last().unwrap()) {
                            ring.push(Module::clone(before));
                        }
                        ring.reverse();
                        return Some(ring);
                    }
                    if !from.contains_key(import) && import != start {
                        from.insert(import.clone(), module.clone());
                        queue.push(import.clone());
                    }
                }
            }
            None
        };
        self.paths.keys().filter(|module| !module.is_empty()).filter_map(ring_from).min_by_key(Vec::len)
    }
}

fn collect(folder: &Path, module: &Module, files: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let child = [module.as_slice(), std::slice::from_ref(&stem)].concat();
        if path.is_dir() && matches!(stem.as_str(), "models" | "tests") {
            continue;
        }
        if path.is_dir() {
            collect(&path, &child, files);
        } else if !matches!(stem.as_str(), "models" | "tests" | "cache_tests") {
            let module = if matches!(stem.as_str(), "lib" | "mod") { module.clone() } else { child };
            files.insert(module, fs::read_to_string(&path).unwrap());
        }
    }
}

fn named(ring: &[Module]) -> String {
    ring.iter().map(|module| module.join("/")).collect::<Vec<_>>().join(" -> ")
}

#[test]
fn no_two_files_import_each_other_directly_or_around_a_ring() {
    let sources = Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.paths.len() > 80, "{}", sources.paths.len());
    let edges: usize = sources.paths.keys().map(|module| sources.imports(module).len()).sum();
    assert!(edges > 400, "only {edges} imports were found");
    if let Some(ring) = sources.ring() {
        panic!("a ring: {} -> {}", named(&ring), named(&ring[..1]));
    }
}

/// The rooms of `engine/`: each imports only rooms before it.
const ROOMS: [&str; 7] = ["common", "core", "file", "handles", "background", "calls", "life"];

fn room_of(module: &Module) -> Option<usize> {
    let [engine, room, ..] = module.as_slice() else { return None };
    ROOMS.iter().position(|name| engine == "engine" && room == name)
}

#[test]
fn the_rooms_of_the_engine_import_each_other_in_one_direction() {
    let sources = Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let mut crossed = 0;
    for module in sources.paths.keys() {
        for import in sources.imports(module) {
            let (Some(room), Some(imported)) = (room_of(module), room_of(&import)) else { continue };
            assert!(imported <= room, "{} imports {}", module.join("/"), import.join("/"));
            crossed += usize::from(imported < room);
        }
    }
    assert!(crossed > 100, "only {crossed} imports from room to room were found");
}

/// What a second core uses, and what callers hold over any core, must not know how a file is made.
/// Only the calls that a file alone has name tables of it.
#[test]
fn handles_and_what_all_cores_use_know_nothing_of_log_store_or_index() {
    const OF_A_FILE: [&str; 7] = ["codec", "commit", "disk", "index", "log_tail", "store", "wal"];
    let sources = Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let mut looked = 0;
    for module in sources.paths.keys() {
        let of_all = match module.as_slice() {
            [engine, room, ..] => engine == "engine" && matches!(room.as_str(), "common" | "handles"),
            [_] | [] => false,
        };
        if !of_all || module.ends_with(&["file_only".to_owned()]) {
            continue;
        }
        looked += 1;
        for import in sources.imports(module) {
            let root = import.first().map_or("", String::as_str);
            assert!(!OF_A_FILE.contains(&root), "{} imports {}", module.join("/"), import.join("/"));
        }
    }
    assert!(looked > 20, "only {looked} files were looked at");
}

/// The test must be able to fail.
#[test]
fn a_ring_is_found_through_a_re_export_and_a_path_in_the_code() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    fs::create_dir(folder.path().join("room")).unwrap();
    write("lib.rs", "mod a; mod b; mod room; pub use room::Thing;");
    write("room/mod.rs", "mod inner; pub(crate) use inner::{Thing, Other as Named};");
    write(
        "room/inner.rs",
        "pub struct Thing; fn f() { crate::b::call('{', \"use crate::a;\") } // use crate::a;",
    );
    write("a.rs", "use crate::{room::Named, b};\n#[cfg(test)]\nmod tests { use crate::b; }");
    write("b.rs", "fn call() {}");
    assert_eq!(Sources::read(folder.path()).ring(), None);
    write("b.rs", "#[cfg(test)] use crate::a; fn call() {}");
    assert_eq!(Sources::read(folder.path()).ring(), None);
    write("b.rs", "use super::Thing; fn call() {}");
    let ring = Sources::read(folder.path()).ring().unwrap();
    assert_eq!(named(&ring), "b -> room/inner");
}
