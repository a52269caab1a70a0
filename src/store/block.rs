//! Blocks: many records in one row, with what an opening needs of them in a row apart.
//!
//! A block holds entries back to back: length (4), checksum (16), encoded completion. Its index row is sealed and
//! holds the block's length (4), then for each entry: digest (16), by how many milliseconds it expires before the block
//! does (4), offset (4).

use crate::codec::{self, BadBytes, CHECKSUM_BYTES, CompletionRow, Entry, Sealer};
use crate::key::Digest;
use crate::record::{Place, Record};
use crate::{Timestamp, clock};

/// redb keeps a large value in a page of a power of two; one this long still fits 64 KiB.
pub(crate) const BLOCK_MAX: usize = (64 << 10) - PAGE_OVERHEAD;
/// What redb adds to a value under a 16-byte key that has a page of its own: see `cargo bench --bench layout -- rows`.
pub(crate) const PAGE_OVERHEAD: usize = 24;
const LENGTH: usize = 4;
pub(crate) const INDEX_ENTRY: usize = 24;
/// A block may outlive its first entry by this part of the entry's remaining life.
const SPREAD: u64 = 8;

/// A block and its index row, ready to be written.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) number: u64,
    /// When its last entry expires; with the number, the row's key.
    pub(crate) expires: Timestamp,
    pub(crate) bytes: Vec<u8>,
    /// The index row.
    pub(crate) index: Vec<u8>,
    pub(crate) records: Vec<(Record, Place)>,
}

/// Packs records into blocks by expiry, so that dropping a block drops only what has expired. Numbers count up from `next`.
pub(crate) fn pack(mut records: Vec<Record>, now: Timestamp, next: u64, sealer: &Sealer) -> Vec<Block> {
    records.sort_by_key(Record::expires);
    let mut blocks = Vec::new();
    let mut open: Option<Filling> = None;
    for record in records {
        let mut payload = Vec::new();
        codec::encode_into(&Entry::Completion(CompletionRow::from(&record)), &mut payload);
        if let Some(full) = open.take_if(|block| !block.has_place_for(&record, payload.len(), now)) {
            blocks.push(full.finish(sealer));
        }
        let number = next + blocks.len() as u64;
        open.get_or_insert_with(|| Filling { number, bytes: Vec::new(), records: Vec::new() })
            .push(record, &payload, sealer);
    }
    blocks.extend(open.map(|block| block.finish(sealer)));
    blocks
}

struct Filling {
    number: u64,
    bytes: Vec<u8>,
    records: Vec<(Record, Place)>,
}

impl Filling {
    fn has_place_for(&self, record: &Record, payload: usize, now: Timestamp) -> bool {
        let Some((first, _)) = self.records.first() else { return true };
        let spread = record.expires().saturating_since(first.expires());
        let spread_max = first.expires().saturating_since(now).as_millis() / u128::from(SPREAD);
        self.bytes.len() + LENGTH + CHECKSUM_BYTES + payload <= BLOCK_MAX
            && spread.as_millis() <= spread_max
            && u32::try_from(clock::millis(spread)).is_ok()
    }

    fn push(&mut self, record: Record, payload: &[u8], sealer: &Sealer) {
        let (Ok(offset), Ok(len)) = (u16::try_from(self.bytes.len()), u32::try_from(payload.len())) else {
            unreachable!("entries start below 64 KiB and are below 32 MiB")
        };
        let place = Place::new(self.number, offset);
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(&sealer.seal("blocks", &[self.number, offset.into()], payload));
        self.records.push((record, place));
    }

    fn finish(self, sealer: &Sealer) -> Block {
        let expires = self.records.last().map(|(record, _)| record.expires()).unwrap_or_default();
        let Ok(len) = u32::try_from(self.bytes.len()) else { unreachable!("blocks are below 64 MiB") };
        let mut index = Vec::with_capacity(LENGTH + self.records.len() * INDEX_ENTRY);
        index.extend_from_slice(&len.to_le_bytes());
        for (record, place) in &self.records {
            let before = clock::millis(expires.saturating_since(record.expires()));
            index.extend_from_slice(&record.digest().as_u128().to_le_bytes());
            index.extend_from_slice(&u32::try_from(before).unwrap_or(u32::MAX).to_le_bytes());
            index.extend_from_slice(&u32::try_from(place.offset()).unwrap_or(u32::MAX).to_le_bytes());
        }
        let index = sealer.seal("index", &[expires.as_millis(), self.number], &index);
        Block { number: self.number, expires, bytes: self.bytes, index, records: self.records }
    }
}

/// Hands every entry of an index row to `each`: digest, expiry, place. Gives the block's length and its number of entries.
pub(crate) fn read_index(
    (expires, number): (Timestamp, u64),
    row: &[u8],
    sealer: &Sealer,
    mut each: impl FnMut(Digest, Timestamp, Place),
) -> Result<(u32, u32), BadBytes> {
    let bytes = sealer.open("index", &[expires.as_millis(), number], row)?;
    let Some((len, entries)) = bytes.split_first_chunk::<LENGTH>() else {
        return Err(BadBytes("an index with nothing in it".to_owned()));
    };
    let (entries, rest) = entries.as_chunks::<INDEX_ENTRY>();
    if !rest.is_empty() {
        return Err(BadBytes(format!("an index of {} bytes", bytes.len())));
    }
    for entry in entries {
        let (digest, tail) = entry.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
        let (before, tail) = tail.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        let offset = tail.first_chunk::<4>().map_or(0, |offset| u32::from_le_bytes(*offset));
        let Ok(offset) = u16::try_from(offset) else {
            return Err(BadBytes(format!("an entry at offset {offset} of a block")));
        };
        let expires = expires.as_millis().saturating_sub(u32::from_le_bytes(*before).into());
        each(
            Digest::from_u128(u128::from_le_bytes(*digest)),
            Timestamp::from_millis(expires),
            Place::new(number, offset),
        );
    }
    Ok((u32::from_le_bytes(*len), u32::try_from(entries.len()).unwrap_or(u32::MAX)))
}

/// The record at `place` of a block.
pub(crate) fn read_record(
    block: &[u8],
    place: Place,
    digest: Digest,
    sealer: &Sealer,
) -> Result<Record, BadBytes> {
    let cut = || BadBytes("the block is cut off".to_owned());
    let (len, rest) =
        block.get(place.offset()..).and_then(|rest| rest.split_first_chunk::<LENGTH>()).ok_or_else(cut)?;
    let len = CHECKSUM_BYTES + u32::from_le_bytes(*len) as usize;
    let entry = rest.get(..len).ok_or_else(cut)?;
    let payload = sealer.open("blocks", &[place.block(), place.offset() as u64], entry)?;
    match codec::decode(payload)? {
        Entry::Completion(row) if row.digest == digest.as_u128() => {
            Ok(Record::new(&row.parts()?, Some(place)))
        }
        Entry::Completion(_)
        | Entry::Intent(_)
        | Entry::Vacated(_)
        | Entry::Mark
        | Entry::Checkpoint(_)
        | Entry::Detached(_)
        | Entry::Declared(_) => Err(BadBytes("the entry belongs to another key".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fingerprint;
    use crate::key::Secret;
    use crate::record::{Outcome, RecordParts};
    use crate::state::Fence;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn record(n: u64, expires: u64, body: usize) -> Record {
        let parts = RecordParts {
            digest: Digest::from_u128(n.into()),
            scope: b"",
            key: b"k",
            fingerprint: Fingerprint::of(""),
            fence: Fence::new(n),
            attempt: 1,
            outcome: Outcome::Success,
            started: NOW,
            completed: NOW,
            expires: Timestamp::from_millis(expires),
            body: &vec![b'x'; body],
        };
        Record::new(&parts, None)
    }

    fn sealer() -> Sealer {
        Sealer::new(&Secret([9; 32]))
    }

    #[test]
    fn records_read_back_from_their_places_and_no_other() {
        let blocks = pack((0..500).map(|n| record(n, 100_000 + n, 300)).collect(), NOW, 7, &sealer());
        assert!(blocks.len() > 1);
        let mut seen = 0;
        for (block, number) in blocks.iter().zip(7..) {
            assert_eq!(block.number, number);
            assert!(block.bytes.len() <= BLOCK_MAX);
            let mut places = block.records.iter();
            read_index((block.expires, number), &block.index, &sealer(), |digest, expires, place| {
                let (record, expected) = places.next().unwrap();
                assert_eq!((digest, expires, place), (record.digest(), record.expires(), *expected));
                let back = read_record(&block.bytes, place, digest, &sealer()).unwrap();
                assert_eq!(back.body(), record.body());
                assert!(read_record(&block.bytes, place, Digest::from_u128(u128::MAX), &sealer()).is_err());
                seen += 1;
            })
            .unwrap();
            assert!(read_index((block.expires, number + 1), &block.index, &sealer(), |_, _, _| ()).is_err());
        }
        assert_eq!(seen, 500);
    }

    #[test]
    fn a_short_life_is_never_kept_by_a_long_one() {
        let (soon, late) = (NOW.as_millis() + 1_000, NOW.as_millis() + 1_000_000);
        let blocks =
            pack(vec![record(1, late, 9), record(2, soon, 9), record(3, soon + 100, 9)], NOW, 0, &sealer());
        let expiries: Vec<_> = blocks.iter().map(|block| block.expires.as_millis()).collect();
        assert_eq!(expiries, [soon + 100, late]);
    }

    #[test]
    fn a_body_over_the_block_size_has_a_block_of_its_own() {
        let blocks = pack(
            vec![record(1, 5_000, 10), record(2, 5_000, 1 << 20), record(3, 5_000, 10)],
            NOW,
            0,
            &sealer(),
        );
        assert_eq!(blocks.iter().map(|block| block.records.len()).collect::<Vec<_>>(), [1, 1, 1]);
        let (record, place) = &blocks[1].records[0];
        let back = read_record(&blocks[1].bytes, *place, record.digest(), &sealer()).unwrap();
        assert_eq!(back.body().len(), 1 << 20);
    }
}
