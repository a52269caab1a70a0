//! The oracle itself is judged: it must notice what it is there to notice.

use crate::oracle::{Oracle, Verdict};
use crate::{body_of, sum_of};

fn judge(lines: &[&str]) -> Verdict {
    let mut oracle = Oracle::default();
    for line in lines {
        match *line {
            "killed" => oracle.bury(),
            line => oracle.hear(&format!("@{line}"))?,
        }
    }
    Ok(())
}

fn record(fence: u64, attempt: u32) -> String {
    format!("{fence} {attempt} success {}", sum_of(&body_of(8, fence)))
}

#[test]
fn the_oracle_notices_a_lost_record_and_an_altered_one() {
    let done = format!("done 8 {}", record(1, 1));
    let lived = ["opened", "begin 8", "granted 8 1 1 0 0", "end 8 1 success", &done, "killed"];
    let walked = format!("walked 8 done {}", record(1, 1));
    assert_eq!(judge(&[&lived[..], &[&walked, "opened"]].concat()), Ok(()));
    assert!(judge(&[&lived[..], &["opened"]].concat()).is_err());
    assert!(judge(&[&lived[..], &["walked 8 open 1 1", "opened"]].concat()).is_err());
    for altered in [record(2, 1), record(1, 2), record(1, 1).replace("success", "failure")] {
        let walked = format!("walked 8 done {altered}");
        assert!(judge(&[&lived[..], &[&walked, "opened"]].concat()).is_err(), "{altered}");
    }
}

#[test]
fn the_oracle_allows_either_fate_of_what_was_not_acknowledged() {
    let walked = format!("walked 8 done {}", record(1, 1));
    let lived = ["opened", "begin 8", "granted 8 1 1 0 0", "end 8 1 success", "killed"];
    assert_eq!(judge(&[&lived[..], &[&walked, "opened"]].concat()), Ok(()));
    assert_eq!(judge(&[&lived[..], &["walked 8 open 1 1", "opened"]].concat()), Ok(()));
    assert!(judge(&[&lived[..], &["opened"]].concat()).is_err());
    // A claim that nobody heard of is there only if somebody asked for one.
    assert_eq!(judge(&["opened", "begin 8", "killed", "walked 8 open 1 1", "opened"]), Ok(()));
    assert!(judge(&["opened", "begin 8", "refused 8", "killed", "walked 8 open 1 1", "opened"]).is_err());
    assert!(judge(&["opened", "begin 8", "killed", "walked 8 open 1 2", "opened"]).is_err());
}

#[test]
fn the_oracle_notices_a_second_grant_and_a_fence_that_falls_back() {
    let granted = ["opened", "begin 8", "begin 8", "granted 8 5 1 0 0"];
    assert!(judge(&[&granted[..], &["granted 8 6 1 0 0"]].concat()).is_err());
    assert!(judge(&[&granted[..], &["granted 8 6 2 5 1"]].concat()).is_err());
    let again = ["killed", "walked 8 open 5 1", "opened", "begin 8"];
    let lives = [&granted[..], &again].concat();
    assert_eq!(judge(&[&lives[..], &["granted 8 6 2 5 1"]].concat()), Ok(()));
    assert!(judge(&[&lives[..], &["granted 8 6 1 0 0"]].concat()).is_err());
    assert!(judge(&[&lives[..], &["granted 8 4 2 5 1"]].concat()).is_err());
    let done = format!("done 8 {}", record(5, 1));
    let ended = [&granted[..], &["end 8 5 success", &done]].concat();
    assert!(judge(&[&ended[..], &["granted 8 6 1 0 0"]].concat()).is_err());
}
