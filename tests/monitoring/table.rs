//! `docs/monitoring.md` lists every metric that is exported, as it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use idemkv::MetricsObserver;

use crate::common::{Machine, default_scope, fresh, request};
use crate::counts::{opened, recorded};

fn page(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Kind, unit and meaning by name, from the table's rows: `| name | kind | unit | labels | meaning |`.
fn documented() -> BTreeMap<String, (String, String, String)> {
    let page = page("docs/monitoring.md");
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

/// The names of the alerts, in order.
fn alerts() -> Vec<String> {
    let rules = page("docs/monitoring/alerts.yml");
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}

#[test]
fn every_alert_says_what_to_do_and_has_a_test_in_which_it_fires_and_one_in_which_it_is_quiet() {
    let (doc, tests) = (page("docs/monitoring.md"), page("docs/monitoring/alerts_test.yml"));
    let explained: Vec<_> = doc
        .lines()
        .filter_map(|line| line.strip_prefix("| `Idemkv")?.split_once('`'))
        .map(|(name, _)| format!("Idemkv{name}"))
        .collect();
    assert!(!explained.is_empty());
    assert_eq!(explained, alerts(), "the rows of docs/monitoring.md, in the order of the rules");
    for alert in alerts() {
        let fires = format!("        alertname: {alert}\n        exp_alerts:\n");
        assert!(tests.contains(&fires), "no test in which {alert} fires");
        assert!(tests.contains(&format!("alertname: {alert} }}")), "no test in which {alert} is quiet");
    }
}
