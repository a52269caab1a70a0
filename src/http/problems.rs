//! A page for each problem: when it happens, what the client does, what the service's owner does.
//! The answers of a layer link to them.

macro_rules! page {
    ($($code:ident)*) => {$(
        #[doc = include_str!(concat!("../../docs/problems/", stringify!($code), ".md"))]
        pub mod $code {}
    )*};
}

page! {
    key_missing
    key_malformed
    not_verified
    tenant_missing
    key_reused
    in_flight
    outcome_unknown
    result_not_kept
    expired
    body_too_large
    body_unreadable
    store_busy
    store_failed
    record_unreadable
    handler_lost
    misconfigured
}
