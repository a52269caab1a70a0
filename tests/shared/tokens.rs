//! Tokens between processes, and answers to a resume that get lost.

use std::time::Duration;

use idemkv::{ClaimToken, Engine, Policy, Recovery};

use crate::proxy::Proxy;
use crate::server::{Server, claim};

fn policy() -> Policy {
    Policy::default().recovery(Recovery::Rerun).lease(Duration::from_secs(60))
}

fn connect(server: &Server, schema: &str) -> Engine {
    server.options(schema).policy(policy()).connect().unwrap()
}

fn token(store: &Engine, key: &str) -> ClaimToken {
    claim(&store.scope(""), key).into_token().unwrap()
}

/// It does not know yet that it was replaced.
#[test]
fn a_replaced_process_does_not_spend_a_token() {
    let server = server!();
    let options = || {
        let options = server.options("token_replaced").policy(policy()).sweep_every(None);
        options.session(Duration::from_secs(300)).instance("w")
    };
    let one = options().connect().unwrap();
    let token = token(&one, "key");
    let two = options().connect().unwrap();
    assert!(one.scope("").resume(&token).is_err());
    two.scope("").resume(&token).unwrap().complete("reply").unwrap();
}

/// The look at the row takes longer than what is left of the lease.
#[test]
fn a_claim_whose_lease_is_over_when_it_arrives_is_not_resumed() {
    let server = server!();
    let policy = policy().lease(Duration::from_millis(500));
    let direct = server.options("token_late").policy(policy).sweep_every(None).connect().unwrap();
    server.sql(
        "CREATE FUNCTION token_late.now() RETURNS bigint LANGUAGE plpgsql AS $$ \
           DECLARE moment bigint := extract(epoch FROM clock_timestamp()) * 1000; BEGIN \
             IF current_query() LIKE '%looked AS%' AND current_query() !~ 'INSERT|UPDATE' THEN \
               PERFORM pg_sleep(1); END IF; \
             RETURN moment; END $$",
    );
    let options = server.options("token_late").policy(policy).clock("token_late.now()").sweep_every(None);
    let store = options.session(Duration::from_secs(300)).count_every(None).connect().unwrap();
    let token = token(&direct, "key");
    let resumed = store.scope("").resume(&token);
    assert!(matches!(resumed, Err(idemkv::TokenError::Superseded(_))), "{resumed:?}");
}

#[test]
fn a_resume_whose_request_is_lost_is_sent_again() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let direct = connect(server, "token_cut");
    let options = idemkv::SharedOptions::new(proxy.url())
        .schema("token_cut")
        .sweep_every(None)
        .count_every(None)
        .connections(1);
    let store = options.session(Duration::from_secs(300)).connect().unwrap();
    for cut in [Proxy::cut_request, Proxy::cut_reply] {
        let key = format!("key {}", proxy.cuts());
        let token = token(&direct, &key);
        claim(&store.scope(""), "warm").release().unwrap();
        let before = proxy.cuts();
        cut(&proxy);
        let resumed = store.scope("").resume(&token).unwrap();
        assert_eq!(proxy.cuts(), before + 1);
        resumed.complete("reply").unwrap();
    }
}
