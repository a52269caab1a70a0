//! Runs every decoder of bytes on disk on any bytes, for fuzzing.
//!
//! In an engine a checksum protects most decoders from damaged bytes. Here the bytes get a right
//! checksum, so that the decoders are reached. A decoded value must encode to the same bytes, or
//! to fewer, because a number may have been written in more than it needs. Exceptions say so.

use std::path::Path;

use crate::Timestamp;
use crate::attempt::Attempt;
use crate::attempt::progress::Budget;
use crate::clock::FrameTime;
use crate::codec::{
    self, BadBytes, CHECKSUM_BYTES, Checksummer, ClaimRow, CompletionRow, DetachedRow, EarlierRow, Entry,
    IntentRow, PolicyRow, ProgressRow, ScopeRow, TokenRow, VacatedRow,
};
use crate::key::{Digest, Secret};
use crate::policy::{Policy, Recovery};
use crate::record::{Record, RecordLocation};
use crate::store::{Meta, Tallies, block};
use crate::sync::{Arc, OnceLock};
use crate::wal::frame::{CHECKED, Frame, FrameBuf, HEADER};
use crate::wal::{self, Identity};

/// Bytes of the log's header under its checksum, and together with it.
const LOG_CHECKED: usize = 40;
const LOG_HEADER: usize = LOG_CHECKED + 8;

/// A decoder of the engine. [`check`](Self::check) runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoder {
    /// An entry of the log.
    Entry,
    /// A frame of the log, with its entries.
    Frame,
    /// The start of the log.
    LogHeader,
    /// The meta row.
    Meta,
    /// The index row of a block.
    IndexRow,
    /// A record in a block.
    BlockEntry,
    /// The row of a claim.
    ClaimRow,
    /// The row of a scope and its policy.
    ScopeRow,
    /// The row of a forgotten key.
    ForgottenRow,
    /// A claim that was handed over.
    Token,
    /// A typed result.
    #[cfg(feature = "serde")]
    Json,
}

/// The checksum keys of one file, to seal the bytes.
fn checksummer() -> &'static Checksummer {
    static SEALER: OnceLock<Checksummer> = OnceLock::new();
    SEALER.get_or_init(|| Checksummer::new(&Secret([7; 32])))
}

const SALT: u64 = 9;
/// Where a block and its index row lie.
const DUE: Timestamp = Timestamp::from_millis(5);
const BLOCK: u64 = 3;
const KEY: Digest = Digest::from_u128(1);

impl Decoder {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Entry,
        Self::Frame,
        Self::LogHeader,
        Self::Meta,
        Self::IndexRow,
        Self::BlockEntry,
        Self::ClaimRow,
        Self::ScopeRow,
        Self::ForgottenRow,
        Self::Token,
        #[cfg(feature = "serde")]
        Self::Json,
    ];

    /// Decodes `bytes`; returns whether they are valid.
    ///
    /// # Panics
    ///
    /// When the decoded value does not encode to the same bytes, or decodes to another value the
    /// next time.
    #[must_use]
    pub fn check(self, bytes: &[u8]) -> bool {
        match self {
            Self::Entry => codec::decode(bytes).is_ok_and(|entry| check_entry(&entry, bytes)),
            Self::Frame => check_frame(bytes),
            Self::LogHeader => check_log_header(bytes),
            Self::Meta => check_meta(bytes),
            Self::IndexRow => check_index_row(bytes),
            Self::BlockEntry => check_block_entry(bytes),
            Self::ClaimRow => codec::decode(bytes).is_ok_and(|row| {
                assert_same(&row, bytes);
                check_claim(&row)
            }),
            Self::ScopeRow => codec::decode(bytes).is_ok_and(|row: ScopeRow<'_>| {
                assert_same(&row, bytes);
                check_policy(&row.policy)
            }),
            Self::ForgottenRow => codec::decode(bytes).is_ok_and(|row: (u64, u64)| {
                assert_same(&row, bytes);
                true
            }),
            Self::Token => codec::decode(bytes).is_ok_and(|row: TokenRow<'_>| {
                assert_same(&row, bytes);
                true
            }),
            #[cfg(feature = "serde")]
            Self::Json => check_json(bytes),
        }
    }

    /// Valid bytes, to start from.
    #[must_use]
    pub fn example(self) -> Vec<u8> {
        match self {
            Self::Entry => Entry::Intent(intent()).encoded().to_vec(),
            Self::Frame => {
                let mut frame = FrameBuf::default();
                for entry in entries() {
                    frame.push(&entry.encoded());
                }
                frame.seal(checksummer(), SALT, 4, frame_time(6, 7)).to_vec()
            }
            Self::LogHeader => {
                let id = Identity { file_id: [2; 16], checksummer: checksummer().clone() };
                let mut header = wal::header(&id, 64 << 10);
                header.truncate(LOG_HEADER);
                header
            }
            Self::Meta => encoded(&meta()),
            Self::IndexRow => {
                let digest_until_and_offset = [&[1; 16][..], &[2; 8], &[3; 2]].concat();
                [&[9, 0, 0, 0], &*digest_until_and_offset, &digest_until_and_offset].concat()
            }
            Self::BlockEntry => encoded(&completion()),
            Self::ClaimRow => encoded(&claim()),
            Self::ScopeRow => encoded(&scope()),
            Self::ForgottenRow => encoded(&(1_u64, 2_u64)),
            Self::Token => {
                encoded(&TokenRow { file_id: [1; 16], digest: 2, fence: 3, opening: 4, scope: b"jobs" })
            }
            #[cfg(feature = "serde")]
            Self::Json => br#"{"Ok":[[1.5,[-2]],[null,[]]]}"#.to_vec(),
        }
    }
}

fn encoded(value: &impl bincode::Encode) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode_into(value, &mut bytes);
    bytes
}

fn assert_same(value: &impl bincode::Encode, bytes: &[u8]) {
    let again = encoded(value);
    assert!(again.len() < bytes.len() || again == bytes, "what was decoded encodes to other bytes");
}

/// The steps of a replay with an entry.
fn check_entry(entry: &Entry<'_>, bytes: &[u8]) -> bool {
    assert_same(entry, bytes);
    match entry {
        Entry::Intent(row) => check_intent(row),
        Entry::Returned(row, _) => check_intent(row),
        Entry::Completion(_, row) => check_completion(row).is_some(),
        Entry::PolicySet(row) => check_policy(&row.policy),
        Entry::Vacated(_) | Entry::Mark | Entry::Progress(_) | Entry::Detached(_) => true,
    }
}

/// An attempt encodes to its intent again, except for a remembered time below the TTL.
fn check_intent(row: &IntentRow<'_>) -> bool {
    if codec::check_names(row.scope, row.key).is_err() {
        return false;
    }
    assert_eq!(Attempt::from_intent(row).intent(), as_kept(row));
    true
}

/// An attempt encodes to its row again, except for times that mean "not yet".
fn check_claim(row: &ClaimRow<'_>) -> bool {
    if codec::check_names(row.intent.scope, row.intent.key).is_err() {
        return false;
    }
    let attempt = Attempt::from_row(row, &Arc::new(Budget::default()));
    let progress = attempt.progress();
    let expected = ClaimRow {
        intent: as_kept(&row.intent),
        interrupted_ms: row.interrupted_ms.filter(|at| *at != u64::MAX),
        detached: row.detached.filter(|(until, _)| *until != 0),
        ..row.clone()
    };
    assert_eq!(attempt.row(progress.as_ref()), expected);
    true
}

fn as_kept<'a>(row: &IntentRow<'a>) -> IntentRow<'a> {
    IntentRow { remembered_ms: row.remembered_ms.max(row.ttl_ms), ..row.clone() }
}

fn check_completion(row: &CompletionRow<'_>) -> Option<Record> {
    let record = Record::new(&row.parts(KEY).ok()?, None);
    assert_eq!(&CompletionRow::from(&record), row);
    Some(record)
}

/// A policy encodes to its row again, except for a delay that has no meaning beside intents.
fn check_policy(row: &PolicyRow) -> bool {
    let Ok(policy) = Policy::from_row(row) else { return false };
    let expected = PolicyRow { relaxed_ms: row.relaxed_ms.filter(|_| !row.intents), ..*row };
    assert_eq!(policy.row(), expected);
    true
}

fn frame_time(time: u64, wall: u64) -> FrameTime {
    FrameTime { time: Timestamp::from_millis(time), wall_max: Timestamp::from_millis(wall) }
}

/// Bytes behind the last entry, and the padding of the last sector, are ignored.
fn check_frame(bytes: &[u8]) -> bool {
    assert!(Frame::read(bytes, checksummer(), SALT).is_none_or(|frame| frame.len() >= HEADER));
    let (Some(len), Some(entries)) = (number(bytes, 4..8), number(bytes, 8..12)) else { return false };
    let (Some(salt), Some(seq)) = (number(bytes, 16..24), number(bytes, 24..32)) else { return false };
    let (Some(time), Some(wall)) = (number(bytes, 32..40), number(bytes, 40..CHECKED)) else { return false };
    let whole = usize::try_from(len).unwrap_or(usize::MAX).saturating_add(HEADER);
    let Some(payload) = bytes.get(HEADER..whole) else { return false };
    let checksum = checksummer().checksum("frame", &[salt, seq, time, wall, entries], payload);
    let bytes = with_checksum(bytes, CHECKED, checksum);
    let Some(frame) = Frame::read(&bytes, checksummer(), salt) else { return false };
    let (mut again, mut pushed) = (FrameBuf::default(), 0);
    let decoded = frame.for_each(|entry| {
        pushed += 1;
        let encoded = entry.encoded();
        again.push(&encoded);
        if check_entry(&entry, &encoded) { Ok(()) } else { Err(BadBytes("not an entry".to_owned())) }
    });
    if decoded.is_err() {
        return false;
    }
    assert_eq!(pushed, entries);
    let sealed = again.seal(checksummer(), salt, seq, frame_time(time, wall));
    if number(sealed, 4..8) == Some(len) {
        assert_eq!(sealed.get(..whole), bytes.get(..whole), "what was decoded encodes to another frame");
    }
    true
}

/// Four zero bytes are under the checksum, and ignored.
fn check_log_header(bytes: &[u8]) -> bool {
    let path = Path::new("x.idem-wal");
    let nobody = Identity { file_id: [0; 16], checksummer: checksummer().clone() };
    assert!(wal::read_header(path, bytes, &nobody).is_err());
    let (Some(checked), Some(file_id)) = (bytes.get(..LOG_CHECKED), bytes.get(24..LOG_CHECKED)) else {
        return false;
    };
    let Ok(file_id) = file_id.try_into() else { return false };
    let id = Identity { file_id, checksummer: checksummer().clone() };
    let bytes = with_checksum(bytes, LOG_CHECKED, checksummer().checksum("log", &[], checked));
    let Ok(segment_bytes) = wal::read_header(path, &bytes, &id) else { return false };
    let again = wal::header(&id, segment_bytes);
    if bytes.get(12..16) == Some(&[0; 4]) {
        assert_eq!(
            again.get(..LOG_HEADER),
            bytes.get(..LOG_HEADER),
            "what was decoded encodes to another header"
        );
    }
    true
}

fn check_meta(bytes: &[u8]) -> bool {
    let path = Path::new("x.idem");
    assert!(Meta::decode(path, bytes).is_err());
    let Ok(meta) = codec::decode::<Meta>(bytes) else { return false };
    assert_same(&meta, bytes);
    assert!(Meta::decode(path, &meta.encode()).is_ok_and(|again| again == meta));
    true
}

fn check_index_row(bytes: &[u8]) -> bool {
    let row = checksummer().seal("index", &[DUE.as_millis(), BLOCK], bytes);
    let mut again = Vec::new();
    let contents = block::read_index((DUE, BLOCK), &row, checksummer(), |digest, until, place| {
        again.extend_from_slice(&digest.as_u128().to_le_bytes());
        again.extend_from_slice(&until.as_millis().to_le_bytes());
        again.extend_from_slice(&u16::try_from(place.offset()).unwrap_or(u16::MAX).to_le_bytes());
    });
    let Ok(contents) = contents else { return false };
    assert_eq!([&contents.len.to_le_bytes(), &*again].concat(), bytes);
    true
}

fn check_block_entry(bytes: &[u8]) -> bool {
    let place = RecordLocation::new(BLOCK, 0);
    assert!(block::read_record(bytes, place, KEY, checksummer()).is_err());
    let (Ok(row), Ok(len)) = (codec::decode::<CompletionRow<'_>>(bytes), u32::try_from(bytes.len())) else {
        return false;
    };
    let entry =
        [&len.to_le_bytes()[..], &checksummer().seal("blocks", &block::seal_place(place, KEY), bytes)]
            .concat();
    let read = block::read_record(&entry, place, KEY, checksummer());
    assert_eq!(read.is_ok(), row.parts(KEY).is_ok());
    let Ok(record) = read else { return false };
    assert_same(&CompletionRow::from(&record), bytes);
    true
}

/// The text may be written in another way with the same meaning.
#[cfg(feature = "serde")]
fn check_json(bytes: &[u8]) -> bool {
    type Reply = Result<Vec<(Option<f64>, Vec<i64>)>, std::collections::BTreeMap<String, bool>>;
    let Ok(reply) = crate::typed::json::decode::<Reply>(bytes) else { return false };
    assert!(crate::typed::json::encode(&reply).is_ok_and(|(_, again)| again == reply));
    true
}

/// A number in these bytes, little-endian.
fn number(bytes: &[u8], at: std::ops::Range<usize>) -> Option<u64> {
    Some(bytes.get(at)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn with_checksum(bytes: &[u8], at: usize, checksum: [u8; CHECKSUM_BYTES]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.iter_mut().skip(at).zip(checksum).for_each(|(to, from)| *to = from);
    bytes
}

fn intent() -> IntentRow<'static> {
    IntentRow {
        digest: 1,
        scope: b"jobs",
        key: b"key",
        fingerprint: [2; 32],
        fence: 3,
        attempt: 2,
        started_ms: 1_000,
        ttl_ms: 60,
        remembered_ms: 61,
        earlier: Some(EarlierRow { fence: 2, attempt: 1, started_ms: 900, interrupted_ms: 950 }),
        lease_ms: Some(8),
        unresolved_ms: Some(9),
    }
}

fn claim() -> ClaimRow<'static> {
    ClaimRow {
        intent: intent(),
        interrupted_ms: Some(1_001),
        returned: true,
        detached: Some((1_008, 9)),
        progress: Some(b"note"),
    }
}

fn completion() -> CompletionRow<'static> {
    CompletionRow {
        scope: b"",
        key: b"key",
        fingerprint: [2; 32],
        fence: 3,
        attempt: 1,
        failed: true,
        started_ms: 4,
        took_ms: 5,
        ttl_ms: 600,
        tombstone_ms: 70_000,
        body_kept: true,
        body: b"body",
    }
}

fn meta() -> Meta {
    Meta {
        file_id: [1; 16],
        secret: [2; 32],
        checkpointed_seq: 4,
        salt: 5,
        log_empty: true,
        opened_as: codec::Text("f".to_owned()),
        log_buffered: false,
        log_bytes: 6,
        fence_next: 7,
        block_next: 8,
        keys: 10,
        tallies: Tallies::default(),
        compacted_live: None,
        high_water_ms: 12,
        wall_max_ms: 13,
        boot_id: Some([14; 16]),
        boot_ms: 15,
    }
}

fn scope() -> ScopeRow<'static> {
    let second = std::time::Duration::from_secs(1);
    let policy = Policy::default().recovery(Recovery::Rerun).tombstone_ttl(Policy::default().ttl + second);
    ScopeRow { name: b"jobs", policy: policy.lease(second).max_attempts(3).max_in_flight(4).row() }
}

/// One of each kind.
fn entries() -> [Entry<'static>; 8] {
    [
        Entry::Intent(intent()),
        Entry::Completion(1, completion()),
        Entry::Vacated(VacatedRow { digest: 1, fence: 3, forgotten_until_ms: Some(4) }),
        Entry::Mark,
        Entry::Progress(ProgressRow { digest: 1, fence: 3, bytes: b"note" }),
        Entry::Detached(DetachedRow { digest: 1, fence: 3, until_ms: 4, opening: 5 }),
        Entry::PolicySet(scope()),
        Entry::Returned(intent(), 1_001),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decoder_takes_its_example_and_nothing_that_is_cut_off() {
        for decoder in Decoder::ALL {
            let example = decoder.example();
            assert!(decoder.check(&example), "{decoder:?}");
            let needed = example.len() - example.iter().rev().take_while(|byte| **byte == 0).count();
            for len in 0..needed {
                let is_row_of_fewer = *decoder == Decoder::IndexRow && len % block::INDEX_ENTRY == 4;
                assert_eq!(decoder.check(&example[..len]), is_row_of_fewer, "{decoder:?}, {len} bytes");
            }
        }
    }

    #[test]
    fn every_decoder_bears_every_flipped_bit_of_its_example() {
        let mut refused = 0;
        for decoder in Decoder::ALL {
            let example = decoder.example();
            for bit in 0..example.len() * 8 {
                let mut flipped = example.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                refused += usize::from(!decoder.check(&flipped));
            }
        }
        assert!(refused > 0);
    }
}
