//! `docs/monitoring.md` lists every metric that is exported, as it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use idemkv::MetricsObserver;

use crate::common::{Machine, default_scope, fresh, request};
use crate::counts::{opened, recorded};

/// Kind, unit and meaning by name, from the table's rows: `| name | kind | unit | labels | meaning |`.
fn documented() -> BTreeMap<String, (String, String, String)> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitoring.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `idemkv_"));
    let cells = rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>());
    cells
        .map(|cells| {
            let [name, kind, unit, _labels, meaning] = cells[..] else { panic!("{cells:?}") };
            let name = name.trim_matches('`').to_owned();
            (name, (kind.to_owned(), unit.to_owned(), meaning.to_owned()))
        })
        .collect()
}

#[test]
fn the_table_is_what_is_described_and_what_is_described_is_exported() {
    recorded(|kept| {
        let machine = Machine::default();
        let observer = Arc::new(MetricsObserver::new("x"));
        let engine = opened(&machine, &observer);
        let scope = default_scope(&engine);
        drop(fresh(&scope, "a").complete("reply").unwrap());
        assert!(scope.begin("", request()).is_err());
        observer.publish(&engine);
        let described = kept.described();
        let kinds: BTreeMap<_, _> =
            described.iter().map(|(name, (kind, ..))| (name.clone(), *kind)).collect();
        assert_eq!(kinds, kept.used());
        let described: BTreeMap<_, _> = described
            .into_iter()
            .map(|(name, (kind, unit, meaning))| (name, (kind.to_owned(), unit.to_owned(), meaning)))
            .collect();
        let documented = documented();
        for (name, metric) in &described {
            assert_eq!(documented.get(name), Some(metric), "the row of {name}");
        }
        assert_eq!(documented.len(), described.len(), "the table has more");
    });
}
