//! Results as JSON: what is stored is what is read again.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Debug;

use crate::common::{Machine, done, fresh, request};
use crate::helpers::{Declined, Receipt, receipt, run};
use idemkv::{Completion, Fault, ReplayError, RunError, Status, StoreError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[test]
fn a_record_that_is_no_result_of_the_type_comes_with_the_error() {
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    let bodies =
        [("text", "not JSON"), ("empty", ""), ("other", r#"{"dollars": 3}"#), ("more", "{\"cents\":3}}")];
    for (key, body) in bodies {
        fresh(&scope, key).complete(body).unwrap();
        let ran = scope.run(key, request(), |_| -> Result<Receipt, Fault<Declined>> { panic!("ran") });
        let error = ran.unwrap_err();
        assert!(!error.is_retryable() && error.source().is_some());
        let RunError::NotReplayed { record, reason: ReplayError::Json(_) } = error else { panic!("{error}") };
        assert_eq!(record.body(), body.as_bytes());
    }
    // A success is not a failure, though the bytes would do.
    fresh(&scope, "failed").fail(r#"{"cents": 3}"#).unwrap();
    let ran = scope.run("failed", request(), |_| -> Result<Receipt, Fault<Declined>> { panic!("ran") });
    assert!(matches!(ran, Err(RunError::NotReplayed { .. })));
}

#[test]
fn a_record_whose_body_was_not_kept_comes_with_the_error() {
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    fresh(&scope, "key").complete_with("null", Completion::new().discard_body()).unwrap();
    // Not even where nothing would be a result.
    let ran = scope.run("key", request(), |_| -> Result<Option<u8>, Fault<()>> { panic!("ran") });
    let error = ran.unwrap_err();
    assert!(error.to_string().contains("not kept"), "{error}");
    let RunError::NotReplayed { record, reason: ReplayError::NotKept } = error else { panic!("{error}") };
    assert!(!record.is_body_kept());
}

#[test]
fn a_type_may_gain_a_field_while_its_records_are_kept() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Newer {
        cents: u64,
        #[serde(default)]
        currency: String,
    }
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    assert_eq!(run(&scope, Ok(receipt())).0.unwrap(), Ok(receipt()));
    let ran = scope.run("key", request(), |_| -> Result<Newer, Fault<Declined>> { panic!("ran") });
    assert_eq!(ran.unwrap(), Ok(Newer { cents: 1000, currency: String::new() }));
}

/// Runs an operation with this result, which must come back unstored, with a claim that can still
/// be completed.
#[track_caller]
fn not_stored<T, E>(given: Result<T, Fault<E>>) -> Result<T, E>
where
    T: Serialize + DeserializeOwned + Debug,
    E: Serialize + DeserializeOwned + Debug,
{
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    let error = scope.run("key", request(), |_claim| given).unwrap_err();
    assert!(!error.is_retryable() && error.source().is_some());
    let text = error.to_string();
    let RunError::NotStored { result, claim, reason: StoreError::Json(_) } = error else { panic!("{text}") };
    assert!(matches!(scope.get("key"), Ok(Status::InFlight(_))));
    claim.expect("nothing was written").complete("by hand").unwrap();
    assert_eq!(done(&scope, "key").body(), b"by hand");
    result
}

#[test]
fn what_json_can_not_carry_is_not_stored_and_given_back() {
    assert!(not_stored(Ok::<_, Fault<()>>(f64::NAN)).unwrap().is_nan());
    assert_eq!(not_stored(Ok::<_, Fault<()>>(vec![Some(f32::INFINITY)])), Ok(vec![Some(f32::INFINITY)]));
    assert_eq!(not_stored(Ok::<_, Fault<()>>(Some(None::<u8>))), Ok(Some(None)));
    assert_eq!(not_stored(Ok::<_, Fault<()>>(Some(()))), Ok(Some(())));
    let by_place = BTreeMap::from([((1, 2), 3)]);
    assert_eq!(not_stored(Ok::<_, Fault<()>>(by_place.clone())), Ok(by_place));
    // The same for what is to be replayed as a failure.
    assert!(not_stored(Err::<(), _>(Fault::Final(f64::NAN))).unwrap_err().is_nan());
}

#[test]
fn what_would_not_be_read_again_is_not_stored_and_given_back() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct OneWay {
        #[serde(rename(serialize = "written", deserialize = "read"))]
        field: u8,
    }
    assert_eq!(not_stored(Ok::<_, Fault<()>>(OneWay { field: 7 })), Ok(OneWay { field: 7 }));
}

#[test]
fn whoever_ran_it_gets_what_the_others_will_get() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Partly {
        kept: u8,
        #[serde(skip)]
        lost: u8,
    }
    let machine = Machine::default();
    let scope = machine.open().scope("charges");
    for _ in 0..2 {
        let ran = scope.run("key", request(), |_| Ok::<_, Fault<()>>(Partly { kept: 1, lost: 2 }));
        assert_eq!(ran.unwrap(), Ok(Partly { kept: 1, lost: 0 }));
    }
}
