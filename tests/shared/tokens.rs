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
