//! Encoding: written values come back, and altered bytes are refused.

use proptest::prelude::*;
use siphasher::sip::SipHasher13;

use super::run::Run;
use super::*;
use crate::key::NAME_MAX;
use crate::key::{Digest, Secret};

fn intent() -> Entry<'static> {
    Entry::Intent(IntentRow {
        digest: 0x0102_0304,
        scope: b"s",
        key: b"key",
        fingerprint: [7; 32],
        fence: 5,
        attempt: 2,
        started_ms: 1_000,
        ttl_ms: 60,
        remembered_ms: 61,
        earlier: Some(EarlierRow { fence: 4, attempt: 1, started_ms: 900, interrupted_ms: 950 }),
        lease_ms: Some(8),
        unresolved_ms: Some(9),
    })
}

const DIGEST: Digest = Digest::from_u128(1);

fn completion(body: &[u8]) -> CompletionRow<'_> {
    CompletionRow {
        scope: b"",
        key: b"k",
        fingerprint: [0; 32],
        fence: 2,
        attempt: 1,
        failed: true,
        started_ms: 1_800_000_000_000,
        took_ms: 4,
        ttl_ms: 86_400_000,
        tombstone_ms: 600,
        body_kept: true,
        body,
    }
}

fn hex(entry: &impl Encode) -> String {
    let mut bytes = Vec::new();
    encode_into(entry, &mut bytes);
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

/// Files depend on it, and so on how the hasher reads a number, which its documentation does not
/// promise.
#[test]
fn a_checksum_is_that_of_the_bytes_behind_each_other() {
    let secret = Secret([9; 32]);
    let key = secret.derived("idemkv 3: checksums of what is on disk");
    let place = [1, u64::MAX - 7, 0x0102_0304_0506_0708];
    let joined = [b"frame".as_slice(), &place.map(u64::to_le_bytes).concat(), b"bytes"].concat();
    let expected = SipHasher13::new_with_key(&key).hash(&joined).to_le_bytes();
    assert_eq!(Checksummer::new(&secret).checksum("frame", &place, b"bytes"), expected);
}

/// A change of these is a change of the file format: raise `FORMAT_VERSION`.
#[test]
fn golden_bytes() {
    let (sevens, zeros) = ("07".repeat(32), "00".repeat(32));
    let earlier = "010401fb8403fbb603";
    let granted = format!("fc040302010173036b6579{sevens}0502fbe8033c3d{earlier}01080109");
    assert_eq!(hex(&intent()), format!("00{granted}"));
    let Entry::Intent(row) = intent() else { panic!("it is an intent") };
    assert_eq!(hex(&Entry::Returned(row.clone(), 6)), format!("07{granted}06"));
    let claim = ClaimRow {
        intent: row,
        interrupted_ms: Some(6),
        returned: true,
        detached: Some((7, 8)),
        progress: Some(b"hi"),
    };
    assert_eq!(hex(&claim), format!("{granted}01060101070801026869"));
    let times = "fd00505c18a301000004fc005c2605fb5802";
    assert_eq!(
        hex(&Entry::Completion(1 << 100, completion(b"hi"))),
        format!("01fe0000000000000000000000001000000000016b{zeros}020101{times}01026869")
    );
    let vacated = Entry::Vacated(VacatedRow { digest: 1, fence: 2, forgotten_until_ms: Some(3) });
    assert_eq!(hex(&vacated), "0201020103");
    assert_eq!(hex(&Entry::Mark), "03");
    let progress = Entry::Progress(ProgressRow { digest: 1, fence: 2, bytes: b"hi" });
    assert_eq!(hex(&progress), "040102026869");
    let detached = Entry::Detached(DetachedRow { digest: 1, fence: 2, until_ms: 3, opening: 4 });
    assert_eq!(hex(&detached), "0501020304");
    let declared = Entry::PolicySet(ScopeRow { name: b"s", policy: crate::Policy::default().row() });
    assert_eq!(hex(&declared), "060173fc005c2605000101fc00c87e9a0000010000");
}

#[test]
fn a_record_that_contradicts_itself_is_refused() {
    let row = completion(b"");
    assert!(row.parts(DIGEST).is_ok());
    let back_in_time = 1_u64.wrapping_neg();
    assert!(CompletionRow { tombstone_ms: back_in_time, ..row }.parts(DIGEST).is_err());
    assert!(CompletionRow { body_kept: false, ..completion(b"hi") }.parts(DIGEST).is_err());
}

#[test]
fn names_of_no_possible_length_are_refused() {
    let (longest, longer) = ([b'x'; NAME_MAX], [b'x'; NAME_MAX + 1]);
    for (scope, key) in [(&b""[..], &b"k"[..]), (&longest, &longest)] {
        assert_eq!(check_names(scope, key), Ok(()));
    }
    for (scope, key) in [(&b""[..], &b""[..]), (b"", &longer), (&longer, b"k")] {
        assert!(check_names(scope, key).is_err(), "{} and {} bytes", scope.len(), key.len());
        assert!(CompletionRow { scope, key, ..completion(b"hi") }.parts(DIGEST).is_err());
    }
}

#[test]
fn the_overhead_bound_holds() {
    let intent = IntentRow {
        digest: u128::MAX,
        scope: &[b'x'; NAME_MAX],
        key: &[b'x'; NAME_MAX],
        fingerprint: [7; 32],
        fence: u64::MAX,
        attempt: u32::MAX,
        started_ms: u64::MAX,
        ttl_ms: u64::MAX,
        remembered_ms: u64::MAX,
        earlier: Some(EarlierRow {
            fence: u64::MAX,
            attempt: u32::MAX,
            started_ms: u64::MAX,
            interrupted_ms: u64::MAX,
        }),
        lease_ms: Some(u64::MAX),
        unresolved_ms: Some(u64::MAX),
    };
    let completion = CompletionRow {
        scope: &[b'x'; NAME_MAX],
        key: &[b'x'; NAME_MAX],
        fingerprint: [7; 32],
        fence: u64::MAX,
        attempt: u32::MAX,
        failed: true,
        started_ms: u64::MAX,
        took_ms: u64::MAX,
        ttl_ms: u64::MAX,
        tombstone_ms: u64::MAX,
        body_kept: true,
        body: &[b'x'; NAME_MAX],
    };
    for (entry, pieces) in [
        (Entry::Intent(intent.clone()), 2),
        (Entry::Returned(intent, u64::MAX), 2),
        (Entry::Completion(u128::MAX, completion), 3),
    ] {
        let mut bytes = Vec::new();
        encode_into(&entry, &mut bytes);
        // What a body of 2 GiB takes in front of it.
        let overhead = bytes.len() - pieces * NAME_MAX + 2;
        assert!(overhead <= ENTRY_OVERHEAD_MAX, "{overhead} bytes");
    }
}

#[test]
fn a_sealed_row_opens_at_its_own_place_only() {
    let checksummer = Checksummer::new(&Secret([3; 32]));
    assert_eq!(format!("{checksummer:?}"), "Checksummer(..)", "the secret is nobody else's");
    let row = checksummer.seal("blocks", &[1, 2], b"bytes");
    assert_eq!(checksummer.open("blocks", &[1, 2], &row), Ok(&b"bytes"[..]));
    assert!(checksummer.open("blocks", &[2, 1], &row).is_err());
    assert!(checksummer.open("index", &[1, 2], &row).is_err());
    assert!(Checksummer::new(&Secret([4; 32])).open("blocks", &[1, 2], &row).is_err());
    for bit in 0..row.len() * 8 {
        let mut flipped = row.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(checksummer.open("blocks", &[1, 2], &flipped).is_err(), "bit {bit}");
    }
    for len in 0..row.len() {
        assert!(checksummer.open("blocks", &[1, 2], &row[..len]).is_err(), "{len} bytes of it");
    }
}

/// As bincode writes a value by itself.
fn derived(value: impl Encode) -> Vec<u8> {
    bincode::encode_to_vec(value, CONFIG).unwrap()
}

fn run(fill: impl FnOnce(&mut Run) -> &mut Run) -> Vec<u8> {
    let mut bytes = Vec::new();
    fill(&mut Run::new()).write(&mut Appended(&mut bytes)).unwrap();
    bytes
}

#[test]
fn a_run_has_the_bytes_that_bincode_writes() {
    // Around each length that a number may take.
    for bits in 0..128 {
        for number in [(1_u128 << bits) - 1, 1 << bits, (1 << bits) + 1, u128::MAX >> bits] {
            assert_eq!(run(|run| run.number(number)), derived(number), "{number}");
            if let Ok(number) = u64::try_from(number) {
                assert_eq!(run(|run| run.number(number)), derived(number), "{number}");
                assert_eq!(run(|run| run.option(Some(number))), derived(Some(number)), "{number}");
            }
            if let Ok(number) = u32::try_from(number) {
                assert_eq!(run(|run| run.number(number)), derived(number), "{number}");
            }
        }
    }
    for number in 245_u64..260 {
        assert_eq!(run(|run| run.number(number)), derived(number), "{number}");
    }
    for len in [0, 1, 250, 251, 70_000] {
        let slice = vec![7_u8; len];
        assert_eq!([run(|run| run.length_of(&slice)), slice.clone()].concat(), derived(slice.as_slice()));
    }
    assert_eq!(run(|run| run.option(None)), derived(None::<u64>));
    assert_eq!(run(|run| run.flag(true).flag(false)), derived((true, false)));
    assert_eq!(run(|run| run.put(&[9; 32]).number(1_u64)), derived(([9_u8; 32], 1_u64)));
}

proptest! {
    /// Decoding is derived: it reads the fields in their order, each by its type.
    #[test]
    fn rows_of_any_fields_come_back(
        numbers in any::<[u64; 8]>(),
        (digest, attempts, earlier) in any::<(u128, [u32; 2], bool)>(),
        (lease_ms, unresolved_ms, flags) in any::<(Option<u64>, Option<u64>, [bool; 2])>(),
        (fingerprint, shift) in (any::<[u8; 32]>(), 0..64_u32),
        scope in proptest::collection::vec(any::<u8>(), 0..300),
        key in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let [fence, started_ms, a, b, c, d, e, f] = numbers.map(|number| number >> shift);
        let [attempt, other] = attempts.map(|attempt| attempt >> (shift % 32));
        let (scope, key) = (scope.as_slice(), key.as_slice());
        let earlier = earlier.then_some(EarlierRow { fence: c, attempt: other, started_ms: d, interrupted_ms: e });
        let intent = IntentRow {
            digest, scope, key, fingerprint, fence, attempt, started_ms, ttl_ms: a, remembered_ms: b,
            earlier, lease_ms, unresolved_ms,
        };
        let mut bytes = Vec::new();
        encode_into(&intent, &mut bytes);
        prop_assert_eq!(decode(&bytes), Ok(intent));
        let [failed, body_kept] = flags;
        let completion = CompletionRow {
            scope, key, fingerprint, fence, attempt, failed, started_ms, took_ms: a, ttl_ms: b,
            tombstone_ms: f, body_kept, body: key,
        };
        bytes.clear();
        encode_into(&completion, &mut bytes);
        prop_assert_eq!(decode(&bytes), Ok(completion));
    }

    #[test]
    fn decoding_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(matches!(decode::<Entry<'_>>(&bytes), Ok(_) | Err(BadBytes(_))));
    }

    #[test]
    fn what_was_encoded_decodes_to_itself(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = Vec::new();
        encode_into(&completion(&body), &mut bytes);
        prop_assert_eq!(decode(&bytes), Ok(completion(&body)));
        bytes.push(0);
        prop_assert!(decode::<CompletionRow<'_>>(&bytes).is_err());
    }
}
