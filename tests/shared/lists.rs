//! Lists and counts of keys without an outcome, over tables of a size.

use std::collections::BTreeSet;
use std::time::Duration;

use idemkv::{OpenKey, Policy, Recovery, Scope, SharedOptions, Status};

use crate::server::{Server, claim, within};

/// Rows as others have left them: done, or interrupted since the first milliseconds of time. Three
/// fit on a page.
fn fill(server: &Server, schema: &str, done: u32, interrupted: u32) {
    let body = |state: u32| if state == 3 { "convert_to(repeat('x', 1500), 'UTF8')" } else { "NULL" };
    for (state, rows) in [(2, interrupted), (3, done)] {
        server.sql(&format!(
            "INSERT INTO {schema}.keys (digest, nonce, fence, started_ms, ttl_ms, remembered_ms, attempt, state, \
               interrupted_ms, completed_ms, expires_ms, gone_ms, fingerprint, scope, key, progress, body) \
             SELECT gen_random_uuid(), gen_random_uuid(), nextval('{schema}.fence'), 1, 1, 1, 1, {state}, \
               CASE WHEN {state} = 2 THEN n / 10 END, CASE WHEN {state} = 3 THEN 1 END, \
               CASE WHEN {state} = 3 THEN 9e15 END, 9e15, \
               decode(repeat('00', 32), 'hex'), 'others', convert_to('{state} ' || n, 'UTF8'), \
               CASE WHEN {state} = 2 THEN convert_to(repeat('p', 1500), 'UTF8') END, {} \
             FROM generate_series(1, {rows}) n",
            body(state)
        ));
    }
}

/// Options for a role whose statements fail as soon as they have read so many rows of keys. The
/// server would look at a row's state first, and count those rows alone, if it trusted the
/// comparison not to leak.
fn counted(server: &Server, schema: &str, rows: u32) -> SharedOptions {
    server.sql(&format!(
        "ALTER FUNCTION pg_catalog.int24eq(smallint, integer) NOT LEAKPROOF; \
         CREATE ROLE {schema} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {schema}; \
         GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {schema}; GRANT USAGE ON SEQUENCE {schema}.fence TO {schema}; \
         CREATE FUNCTION {schema}.counted() RETURNS boolean LANGUAGE plpgsql AS $$ \
           DECLARE n int := coalesce(nullif(current_setting('lists.rows', true), ''), '0')::int + 1; BEGIN \
             IF n > {rows} THEN RAISE EXCEPTION 'a statement reads too many rows'; END IF; \
             PERFORM set_config('lists.rows', n::text, true); RETURN true; END $$; \
         ALTER TABLE {schema}.keys ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY counted ON {schema}.keys USING ({schema}.counted())"
    ));
    let policy = Policy::default().recovery(Recovery::Rerun);
    let url = format!("postgres://{schema}@127.0.0.1:{}/postgres", server.port);
    SharedOptions::new(url).schema(schema).policy(policy).sweep_every(None).count_every(None)
}

fn names(keys: &[OpenKey]) -> Vec<String> {
    keys.iter().map(|key| String::from_utf8(key.key().to_vec()).unwrap()).collect()
}

fn lose(scope: &Scope, key: &str) {
    drop(claim(scope, key));
    while !matches!(scope.get(key), Ok(Status::Interrupted(_))) {}
}

#[test]
fn a_list_reads_a_table_of_any_size_in_bounded_statements() {
    let server = server!();
    let schema = "lists_large";
    let store = server.options(schema).sweep_every(None).count_every(None).connect().unwrap();
    let mine = store.scope("mine");
    let first = claim(&mine, "held first");
    lose(&mine, "lost first");
    fill(server, schema, 4_000, 4_500);
    let brief = store.set_policy("brief", store.policy().lease(Duration::from_millis(10))).unwrap();
    let lapsed = claim(&brief, "lapsed");
    let last = claim(&mine, "held last");
    lose(&mine, "lost last");
    while !matches!(brief.get("lapsed"), Ok(Status::Interrupted(_))) {}

    let reader = counted(server, schema, 2_500).connect().unwrap();
    let out = reader.in_flight().get().unwrap();
    assert_eq!(names(&out), ["held first", "held last"]);
    assert_eq!(out[1].attempt().fence(), last.fence());
    let of_one = reader.interrupted().scope("mine").get().unwrap();
    assert_eq!(names(&of_one), ["lost first", "lost last"]);
    assert_eq!(names(&reader.interrupted().scope("brief").get().unwrap()), ["lapsed"]);
    // All, page by page: each once, in order.
    let mut all = Vec::new();
    loop {
        let listing = reader.interrupted().limit(700);
        let page = match all.last().map(OpenKey::position) {
            Some(last) => listing.after(last).get().unwrap(),
            None => listing.get().unwrap(),
        };
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 700);
        all.extend(page);
    }
    assert!(all.is_sorted_by_key(OpenKey::position));
    assert_eq!(names(&all).into_iter().collect::<BTreeSet<_>>().len(), 4_503);
    assert_eq!(all.len(), 4_503);
    assert_eq!(all[0].last_progress().map(<[u8]>::len), Some(1_500));
    assert_eq!(reader.interrupted().limit(usize::MAX).get().unwrap().len(), 4_503);
    assert!(reader.interrupted().limit(0).get().unwrap().is_empty());
    drop((first, lapsed));
}

#[test]
fn interrupted_keys_are_counted_over_the_whole_store() {
    let server = server!();
    let schema = "lists_counted";
    let brief = Some(Duration::from_millis(20));
    let options = || server.options(schema).sweep_every(None).count_every(brief);
    let (one, two) = (options().connect().unwrap(), options().connect().unwrap());
    let strict = one.set_policy("strict", Policy::default().recovery(Recovery::Refuse)).unwrap();
    let tries = one.set_policy("tries", one.policy().recovery(Recovery::Rerun).max_attempts(2)).unwrap();
    let free = one.scope("free");
    for (scope, key) in [(&strict, "a"), (&strict, "b"), (&strict, "c"), (&free, "a"), (&free, "b")] {
        lose(scope, key);
    }
    lose(&tries, "a");
    lose(&tries, "b");
    lose(&tries, "b");
    let counts = |store: &idemkv::Engine| {
        let stats = store.stats();
        (stats.interrupted, stats.unresolved_keys)
    };
    // The second process reads the policies with its first begin under them.
    claim(&two.scope("free"), "other").release().unwrap();
    for store in [&one, &two] {
        assert!(within(Duration::from_secs(30), || counts(store) == (7, 4)), "{:?}", counts(store));
        let stats = store.stats();
        assert!(stats.interrupted_longest >= stats.unresolved_longest);
        assert!(stats.unresolved_longest < Duration::from_secs(60), "{stats:?}");
    }
    fill(server, schema, 0, 12_000);
    assert!(within(Duration::from_secs(30), || counts(&two) == (12_007, 4)), "{:?}", counts(&two));
    server.sql(&format!("UPDATE {schema}.keys SET gone_ms = 1 WHERE scope = 'others'"));
    assert!(within(Duration::from_secs(30), || counts(&one) == (7, 4)), "{:?}", counts(&one));
    let never = server.options(schema).count_every(None).connect().unwrap();
    assert_eq!(counts(&never), (0, 0));
}

/// An index whose columns it changed would make each completion write to all of them.
#[test]
fn a_completion_changes_no_index() {
    let server = server!();
    let schema = "lists_hot";
    let store = server.options(schema).sweep_every(None).connect().unwrap();
    let scope = store.scope("");
    for number in 0..100 {
        claim(&scope, &format!("key {number}")).complete("reply").unwrap();
    }
    // The server counts them when a connection is over.
    store.close().unwrap();
    let of = |column: &str| {
        server.one(&format!(
            "SELECT {column} FROM pg_stat_all_tables WHERE schemaname = '{schema}' AND relname = 'keys'"
        ))
    };
    assert!(within(Duration::from_secs(30), || of("n_tup_upd") == "100"), "{}", of("n_tup_upd"));
    // Transactions of other tests can keep an old version on its page, which then has no room.
    assert!(of("n_tup_hot_upd").parse::<u32>().unwrap() > 50, "{}", of("n_tup_hot_upd"));
}

/// 20 MiB of progress, which one answer would bring.
fn with_much_progress(server: &Server, schema: &str) -> (idemkv::Engine, Vec<idemkv::Claim>) {
    let store = server.options(schema).sweep_every(None).count_every(None).connect().unwrap();
    let mut claims: Vec<_> =
        (0..20).map(|number| claim(&store.scope(""), &format!("key {number:02}"))).collect();
    for claim in &mut claims {
        claim.save_progress(vec![b'p'; 1 << 20]).unwrap();
    }
    (store, claims)
}

/// The statements that it takes, which are more than one for each part of the table.
fn listed(store: &idemkv::Engine, list: impl Fn() -> Vec<OpenKey>) -> u64 {
    let before = store.shared_stats().unwrap().statements;
    let names: BTreeSet<_> = names(&list()).into_iter().collect();
    assert_eq!(names.len(), 20);
    store.shared_stats().unwrap().statements - before
}

#[test]
fn claims_with_much_progress_come_in_bounded_answers() {
    let server = server!();
    let (store, claims) = with_much_progress(server, "lists_claims");
    let statements = listed(&store, || store.in_flight().limit(100).get().unwrap());
    assert!(statements >= 4, "{statements}");
    drop(claims);
}

#[test]
fn interrupted_keys_with_much_progress_come_in_bounded_answers() {
    let server = server!();
    let (store, claims) = with_much_progress(server, "lists_lost");
    drop(claims);
    assert!(within(Duration::from_secs(30), || server
        .one("SELECT count(*) FROM lists_lost.keys WHERE state = 2")
        == "20"));
    let statements = listed(&store, || store.interrupted().limit(100).get().unwrap());
    assert!(statements >= 5, "{statements}");
}
