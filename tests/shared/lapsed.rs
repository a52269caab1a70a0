//! Sessions that seem to be over while they are renewed.

use std::time::Duration;

use idemkv::{Begin, Engine, Policy, Recovery, SharedOptions};

use crate::server::{Client, Gate, Server, claim, request, within};

/// Options with a clock that a test can set forward. It is read anew each time a statement asks.
pub struct Shifted<'a> {
    server: &'a Server,
    schema: &'static str,
}

impl<'a> Shifted<'a> {
    pub fn new(server: &'a Server, schema: &'static str) -> Self {
        server.sql(&format!(
            "CREATE SCHEMA {schema}; CREATE TABLE {schema}.shift (ms bigint); INSERT INTO {schema}.shift VALUES (0); \
             CREATE FUNCTION {schema}.clock() RETURNS bigint LANGUAGE plpgsql VOLATILE AS \
               'BEGIN RETURN (extract(epoch FROM clock_timestamp()) * 1000)::bigint + (SELECT ms FROM {schema}.shift); END'"
        ));
        Self { server, schema }
    }

    pub fn set(&self, forward: Duration) {
        self.server.sql(&format!("UPDATE {}.shift SET ms = {}", self.schema, forward.as_millis()));
    }

    pub fn options(&self, session: Duration) -> SharedOptions {
        let options = self.server.options(self.schema).clock(format!("{}.clock()", self.schema));
        options.session(session).sweep_every(None).count_every(None).cache_bytes(0)
    }

    fn session_of(&self, engine: &str) -> String {
        self.server.one(&format!("SELECT max(id) FROM {}.sessions WHERE instance = '{engine}'", self.schema))
    }
}

const SHORT: Duration = Duration::from_secs(12);
pub const LONG: Duration = Duration::from_secs(600);

/// A disk or a standby holds its commit up. Before, one of the two claims was taken over.
#[test]
fn while_a_renewal_is_being_committed_no_claim_of_its_session_is_taken_over() {
    let server = server!();
    let clock = Shifted::new(server, "lapsed_commit");
    let one =
        clock.options(SHORT).statement_timeout(Duration::from_secs(60)).instance("one").connect().unwrap();
    let claims = ["rerun", "refused"].map(|key| claim(&one.scope(""), key));
    let renewed = format!("NEW.id = {}", clock.session_of("one"));
    let gate = Gate::shut(server, "lapsed_commit", "UPDATE ON lapsed_commit.sessions", &renewed);
    let recovering = |how| clock.options(LONG).policy(Policy::default().recovery(how)).connect().unwrap();
    let others = [recovering(Recovery::Rerun), recovering(Recovery::Refuse)];
    let in_flight =
        |other: &Engine, key: &str| matches!(other.scope("").begin(key, request()), Ok(Begin::InFlight(_)));
    gate.holds(1);
    clock.set(SHORT * 2);
    assert!(in_flight(&others[0], "rerun"), "it was taken over");
    assert!(in_flight(&others[1], "refused"), "it was found interrupted");
    clock.set(Duration::ZERO);
    gate.open();
    for claim in claims {
        claim.complete("reply").unwrap();
    }
}

/// The renewal was sent while the session lived, and had to wait for its row.
#[test]
fn a_session_whose_claims_were_taken_over_is_not_renewed_any_more() {
    let server = server!();
    let clock = Shifted::new(server, "lapsed_lock");
    let one =
        clock.options(SHORT).statement_timeout(Duration::from_secs(60)).instance("one").connect().unwrap();
    let two = clock.options(LONG).connect().unwrap();
    let held = claim(&one.scope(""), "key");
    let session = clock.session_of("one");
    let mut reader = Client::connect(server);
    reader.run(&format!("BEGIN; SELECT FROM lapsed_lock.sessions WHERE id = {session} FOR SHARE"));
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%lapsed_lock%'";
    assert!(within(Duration::from_secs(20), || server.one(waits) == "1"));
    let until = format!("SELECT until_ms FROM lapsed_lock.sessions WHERE id = {session}");
    let before = server.one(&until);
    clock.set(SHORT * 2);
    drop(claim(&two.scope(""), "key"));
    reader.run("COMMIT");
    // It starts another.
    assert!(within(Duration::from_secs(20), || !["", &session].contains(&&*clock.session_of("one"))));
    assert_eq!(server.one(&until), before, "it was renewed first");
    assert!(held.complete("reply").is_err());
}
