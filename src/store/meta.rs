//! The meta row: the identity of the file, and how much of the log it covers.

use std::path::Path;

use bincode::{BorrowDecode, Encode};

use super::tally::Tallies;
use crate::Timestamp;
use crate::clock::{BootId, TimeMark};
use crate::codec::{self, Checksummer, FORMAT_VERSION, Text};
use crate::error::{Damage, OpenError};
use crate::key::Secret;

/// The fields of the meta row. Every checkpoint writes them, in the same transaction.
#[derive(Clone, PartialEq, Encode, BorrowDecode)]
pub(crate) struct Meta {
    /// Drawn when the file was made; its log carries the same.
    pub(crate) file_id: [u8; 16],
    /// Keys digests and checksums.
    pub(crate) secret: [u8; 32],
    /// Every frame of the log up to this sequence is in the file.
    pub(crate) checkpointed_seq: u64,
    /// The salt of the frames that count. Drawn anew at every opening, which is how old frames are
    /// discarded.
    pub(crate) salt: u64,
    /// The log holds nothing that is needed: it was closed cleanly, or just checkpointed by an
    /// opening.
    pub(crate) log_empty: bool,
    /// The name by which the file was last opened, as far as it is text; its log lies beside that
    /// name.
    pub(crate) opened_as: Text,
    /// The log was last written without syncs: after a power cut it may have gaps.
    pub(crate) log_buffered: bool,
    /// Bytes of the log's segments that a sync had covered when this was written. A shorter log
    /// has been cut off.
    pub(crate) log_bytes: u64,
    /// No fence at or above this was ever granted.
    pub(crate) fence_next: u64,
    /// No block at or above this number was ever written.
    pub(crate) block_next: u64,
    /// Number of records in blocks.
    pub(crate) keys: u64,
    /// What the tables hold.
    pub(crate) tallies: Tallies,
    /// Live bytes of the file when it was last compacted.
    pub(crate) compacted_live: Option<u64>,
    // What the clocks showed when this was written, see `TimeMark`.
    /// The highest engine time the file has seen.
    pub(crate) high_water_ms: u64,
    /// The highest time that a wall clock was ever seen to show.
    pub(crate) wall_max_ms: u64,
    /// The boot of the machine, if it is known.
    pub(crate) boot_id: Option<[u8; 16]>,
    /// The boot clock.
    pub(crate) boot_ms: u64,
}

impl std::fmt::Debug for Meta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meta")
            .field("checkpointed_seq", &self.checkpointed_seq)
            .field("log_empty", &self.log_empty)
            .field("tallies", &self.tallies)
            .finish_non_exhaustive()
    }
}

/// The row's checksum can't use the file's secret, which is in the row.
pub(super) fn checksummer() -> Checksummer {
    Checksummer::new(&Secret(*b"idemkv: the row that says it all"))
}

const TABLE: &str = "meta";

impl Meta {
    pub(crate) fn time(&self) -> TimeMark {
        TimeMark {
            time: Timestamp::from_millis(self.high_water_ms),
            wall_max: Timestamp::from_millis(self.wall_max_ms),
            boot: self.boot_id.map(BootId),
            boot_ms: self.boot_ms,
        }
    }

    pub(crate) fn set_time(&mut self, mark: TimeMark) {
        self.high_water_ms = mark.time.as_millis();
        self.wall_max_ms = mark.wall_max.as_millis();
        self.boot_id = mark.boot.map(|boot| boot.0);
        self.boot_ms = mark.boot_ms;
    }

    /// The row: version, checksum, fields.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        codec::encode_into(self, &mut fields);
        let mut row = FORMAT_VERSION.to_le_bytes().to_vec();
        row.extend_from_slice(&checksummer().seal(TABLE, &[FORMAT_VERSION.into()], &fields));
        row
    }

    pub(crate) fn decode(path: &Path, row: &[u8]) -> Result<Self, OpenError> {
        let damaged = |what: String| OpenError::from(Damage::new(path, "row `meta`, offset 0", what));
        let Some((version, sealed)) = row.split_first_chunk::<4>() else {
            return Err(damaged("the row is cut off".to_owned()));
        };
        let version = u32::from_le_bytes(*version);
        codec::check_version(path, version)?;
        let fields = checksummer().open(TABLE, &[version.into()], sealed).map_err(|bad| damaged(bad.0))?;
        codec::decode(fields).map_err(|bad| damaged(bad.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tally::Tally;

    fn tally(row: &[u8]) -> Tally {
        let mut tally = Tally::default();
        tally.add(row);
        tally
    }

    fn meta() -> Meta {
        Meta {
            file_id: [1; 16],
            secret: [2; 32],
            checkpointed_seq: 4,
            salt: 5,
            log_empty: true,
            opened_as: Text("f".to_owned()),
            log_buffered: false,
            log_bytes: 6,
            fence_next: 7,
            block_next: 8,
            keys: 13,
            tallies: Tallies {
                index: tally(&[7, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]),
                claims: tally(&[8, 0, 0, 0, 0, 0, 0, 0, 1, 2]),
                forgotten: tally(&[9, 0, 0, 0, 0, 0, 0, 0, 1]),
                scopes: tally(&[10, 0, 0, 0, 0, 0, 0, 0]),
            },
            compacted_live: Some(14),
            high_water_ms: 11,
            wall_max_ms: 12,
            boot_id: Some([14; 16]),
            boot_ms: 15,
        }
    }

    #[test]
    fn golden_bytes_and_round_trip() {
        let row = meta().encode();
        let tallies = [1, 11, 7, 1, 10, 8, 1, 9, 9, 1, 8, 10];
        let numbers = [&[4, 5, 1, 1, b'f', 0, 6, 7, 8, 13][..], &tallies, &[1, 14, 11, 12, 1]].concat();
        let fields = [&[1; 16][..], &[2; 32], &numbers, &[14; 16], &[15]].concat();
        let (version, sealed) = row.split_at(4);
        assert_eq!(version, [5, 0, 0, 0]);
        assert_eq!(sealed, checksummer().seal("meta", &[5], &fields));
        assert_eq!(Meta::decode(Path::new("f"), &row).unwrap(), meta());
        let shown = format!("{:?}", meta());
        assert!(!shown.contains("secret") && !shown.contains("[2, 2"), "{shown}");
    }

    #[test]
    fn another_version_and_every_flipped_bit_are_refused() {
        let mut newer = meta().encode();
        newer[0] = 6;
        assert!(matches!(
            Meta::decode(Path::new("f"), &newer),
            Err(OpenError::NewerVersion { found: 6, supported: 5, .. })
        ));
        let mut older = meta().encode();
        older[0] = 1;
        assert!(matches!(
            Meta::decode(Path::new("f"), &older),
            Err(OpenError::OlderVersion { found: 1, supported: 5, .. })
        ));
        older[0] = 0;
        assert!(matches!(Meta::decode(Path::new("f"), &older), Err(OpenError::Damaged(_))));
        let row = meta().encode();
        for bit in 32..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(Meta::decode(Path::new("f"), &flipped), Err(OpenError::Damaged(_))),
                "bit {bit}"
            );
        }
    }
}
