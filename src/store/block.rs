//! Blocks: many records in one row, and a separate index row with the fields that an opening
//! needs.
//!
//! A block holds entries back to back: length (4), checksum (8), encoded completion, whose digest
//! is only in the checksum. Its index row is sealed and holds the block's length (4), then for
//! each entry: digest (16), until when it is remembered (8), offset (2).
//!
//! A block is due when the last of its bodies expires. Its tombstones then move, without bodies,
//! to a block that is due when the last of its keys is no longer remembered: see `relocate.rs`.

use crate::Timestamp;
use crate::codec::{self, BadBytes, CHECKSUM_BYTES, Checksummer, CompletionRow};
use crate::key::Digest;
use crate::record::{Record, RecordLocation};

/// redb keeps a large value in a page of a power of two. Short records come in blocks of the
/// smallest page, because a reader of one record reads the whole block. Long records, and short
/// ones among them, come in larger blocks, so that little of a page is left empty.
pub(crate) const PAGE_MIN: usize = 8 << 10;
const PAGE_MAX: usize = 64 << 10;
/// A block grows until its page has room for so many records of their largest mean length.
const RECORDS_A_PAGE: usize = 16;
/// What redb adds to a value under a 16-byte key that has a page of its own: see `cargo bench
/// --bench layout -- rows`.
pub(crate) const PAGE_OVERHEAD: usize = 24;
const LENGTH: usize = 4;
pub(crate) const INDEX_ENTRY: usize = 26;
/// A block may outlive its first entry by this part of the entry's remaining life.
const SPREAD: u128 = 8;

/// A block and its index row, ready to be written.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) number: u64,
    /// When its space can be freed; with the number, the row's key.
    pub(crate) due: Timestamp,
    /// When the last of its keys is no longer remembered.
    pub(crate) remembered_until: Timestamp,
    pub(crate) bytes: Vec<u8>,
    /// The index row.
    pub(crate) index: Vec<u8>,
    pub(crate) records: Vec<(Record, RecordLocation)>,
}

/// When a record's space can be freed: with its body, or with its key if no body is written.
fn due(record: &Record, now: Timestamp) -> Timestamp {
    if record.body().is_empty() || record.expires() <= now {
        record.remembered_until()
    } else {
        record.expires()
    }
}

/// Whether a block whose first entry is due at one time may hold another that is due later.
pub(crate) fn spans(first: Timestamp, later: Timestamp, now: Timestamp) -> bool {
    let spread_max = first.saturating_since(now).as_millis() / SPREAD;
    later.saturating_since(first).as_millis() <= spread_max
}

impl Block {
    /// The fields of its index row.
    pub(crate) fn contents(&self) -> Contents {
        let short = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Contents {
            len: short(self.bytes.len()),
            entries: short(self.records.len()),
            remembered_until: self.remembered_until,
        }
    }
}

/// Packs records into blocks by the time when they are due, so that a block doesn't keep records
/// long after they are due. Bodies that have expired are left out. Numbers count up from `next`.
pub(crate) fn pack(records: Vec<Record>, now: Timestamp, next: u64, checksummer: &Checksummer) -> Vec<Block> {
    // Ties in the order of claims, so that a run of the simulator can be repeated.
    let order_of = |record: &Record| (due(record, now), record.fence(), record.digest());
    let mut records: Vec<_> = records.into_iter().map(|record| (order_of(&record), record)).collect();
    // The stable sort, for it makes use of the order in which they come.
    records.sort_by_key(|(order, _)| *order);
    let mut blocks = Vec::new();
    let mut open: Option<Filling> = None;
    let mut payload = Vec::new();
    let mut left = records.len();
    for ((due, _, digest), record) in records {
        payload.clear();
        let row = CompletionRow::from(&record);
        let row = if record.expires() <= now { row.without_body() } else { row };
        codec::encode_into(&row, &mut payload);
        if let Some(full) = open.take_if(|block| !block.makes_place_for(due, payload.len(), now)) {
            blocks.push(full.finish(checksummer));
        }
        let number = next + blocks.len() as u64;
        open.get_or_insert_with(|| {
            let (len, bytes) = (LENGTH + CHECKSUM_BYTES + payload.len(), PAGE_MIN - PAGE_OVERHEAD);
            Filling {
                number,
                first_due: due,
                last_due: due,
                len_max: bytes,
                bytes: Vec::with_capacity(bytes.min(left * len)),
                records: Vec::with_capacity(left.min(bytes / len + 1)),
            }
        })
        .push((due, digest), record, &payload, checksummer);
        left -= 1;
    }
    blocks.extend(open.map(|block| block.finish(checksummer)));
    blocks
}

struct Filling {
    number: u64,
    first_due: Timestamp,
    last_due: Timestamp,
    len_max: usize,
    bytes: Vec<u8>,
    records: Vec<(Record, RecordLocation)>,
}

impl Filling {
    /// Whether a record that is due then may go into this block.
    fn makes_place_for(&mut self, due: Timestamp, payload: usize, now: Timestamp) -> bool {
        let len = self.bytes.len() + LENGTH + CHECKSUM_BYTES + payload;
        let page = (len / (self.records.len() + 1) * RECORDS_A_PAGE).next_power_of_two();
        self.len_max = self.len_max.max(page.min(PAGE_MAX) - PAGE_OVERHEAD);
        len <= self.len_max && spans(self.first_due, due, now)
    }

    fn push(
        &mut self,
        (due, digest): (Timestamp, Digest),
        record: Record,
        payload: &[u8],
        checksummer: &Checksummer,
    ) {
        let offset = u16::try_from(self.bytes.len())
            .unwrap_or_else(|_| unreachable!("what has place for more is shorter than PAGE_MAX"));
        let place = RecordLocation::new(self.number, offset);
        self.bytes.extend_from_slice(&codec::length(payload.len()));
        self.bytes.extend_from_slice(&checksummer.checksum("blocks", &seal_place(place, digest), payload));
        self.bytes.extend_from_slice(payload);
        self.records.push((record, place));
        self.last_due = due;
    }

    fn finish(self, checksummer: &Checksummer) -> Block {
        let due = self.last_due;
        let last = self.records.iter().map(|(record, _)| record.remembered_until()).max();
        let mut index = Vec::with_capacity(LENGTH + self.records.len() * INDEX_ENTRY);
        index.extend_from_slice(&codec::length(self.bytes.len()));
        for (record, place) in &self.records {
            index.extend_from_slice(&record.digest().as_u128().to_le_bytes());
            index.extend_from_slice(&record.remembered_until().as_millis().to_le_bytes());
            index.extend_from_slice(&u16::try_from(place.offset()).unwrap_or(u16::MAX).to_le_bytes());
        }
        let index = checksummer.seal("index", &[due.as_millis(), self.number], &index);
        Block {
            number: self.number,
            due,
            remembered_until: last.unwrap_or_default(),
            bytes: self.bytes,
            index,
            records: self.records,
        }
    }
}

/// The fields of an index row about its block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents {
    /// Bytes of the block.
    pub(crate) len: u32,
    pub(crate) entries: u32,
    /// When the last of its keys is no longer remembered.
    pub(crate) remembered_until: Timestamp,
}

/// Passes every entry of an index row to `each`: digest, until when it is remembered, location.
pub(crate) fn read_index(
    (due, number): (Timestamp, u64),
    row: &[u8],
    checksummer: &Checksummer,
    mut each: impl FnMut(Digest, Timestamp, RecordLocation),
) -> Result<Contents, BadBytes> {
    let bytes = checksummer.open("index", &[due.as_millis(), number], row)?;
    let Some((len, entries)) = bytes.split_first_chunk::<LENGTH>() else {
        return Err(BadBytes("an index with nothing in it".to_owned()));
    };
    let (entries, rest) = entries.as_chunks::<INDEX_ENTRY>();
    if !rest.is_empty() {
        return Err(BadBytes(format!("an index of {} bytes", bytes.len())));
    }
    let mut last = Timestamp::default();
    for entry in entries {
        let (digest, tail) = entry.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
        let (until, tail) = tail.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        let offset = tail.first_chunk::<2>().map_or(0, |offset| u16::from_le_bytes(*offset));
        let until = Timestamp::from_millis(u64::from_le_bytes(*until));
        last = last.max(until);
        each(Digest::from_u128(u128::from_le_bytes(*digest)), until, RecordLocation::new(number, offset));
    }
    Ok(Contents {
        len: u32::from_le_bytes(*len),
        entries: u32::try_from(entries.len()).unwrap_or(u32::MAX),
        remembered_until: last,
    })
}

/// The record at `place` of a block.
pub(crate) fn read_record(
    block: &[u8],
    place: RecordLocation,
    digest: Digest,
    checksummer: &Checksummer,
) -> Result<Record, BadBytes> {
    let cut = || BadBytes("the block is cut off".to_owned());
    let (len, rest) =
        block.get(place.offset()..).and_then(|rest| rest.split_first_chunk::<LENGTH>()).ok_or_else(cut)?;
    let len = CHECKSUM_BYTES + u32::from_le_bytes(*len) as usize;
    let entry = rest.get(..len).ok_or_else(cut)?;
    let payload = checksummer.open("blocks", &seal_place(place, digest), entry)?;
    let row: CompletionRow<'_> = codec::decode(payload)?;
    Ok(Record::new(&row.parts(digest)?, Some(place)))
}

/// The place of an entry's checksum: its location, and its key.
pub(crate) fn seal_place(place: RecordLocation, digest: Digest) -> [u64; 4] {
    let [high, low] = digest.halves();
    [place.block(), place.offset() as u64, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Secret;
    use crate::record::RecordParts;
    use crate::state::{Fence, Lifetime};

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn record(n: u64, expires: u64, body: usize) -> Record {
        remembered(n, expires, expires, body)
    }

    fn remembered(n: u64, expires: u64, until: u64, body: usize) -> Record {
        let (expires, remembered_until) = (Timestamp::from_millis(expires), Timestamp::from_millis(until));
        let parts = RecordParts {
            digest: Digest::from_u128(n.into()),
            lifetime: Lifetime { expires, remembered_until },
            body: &vec![b'x'; body],
            ..RecordParts::example(n)
        };
        Record::new(&parts, None)
    }

    fn checksummer() -> Checksummer {
        Checksummer::new(&Secret([9; 32]))
    }

    #[test]
    fn records_read_back_from_their_places_and_no_other() {
        let blocks = pack(
            (0..500).map(|n| record(n, 100_000 + n, if n % 2 == 0 { 300 } else { 6_000 })).collect(),
            NOW,
            7,
            &checksummer(),
        );
        assert!(blocks.len() > 1);
        let mut seen = 0;
        for (block, number) in blocks.iter().zip(7..) {
            assert_eq!(block.number, number);
            assert!(block.bytes.len() > PAGE_MAX / 2 || number == 6 + blocks.len() as u64);
            let mut places = block.records.iter();
            let contents =
                read_index((block.due, number), &block.index, &checksummer(), |digest, until, place| {
                    let (record, expected) = places.next().unwrap();
                    assert_eq!(
                        (digest, until, place),
                        (record.digest(), record.remembered_until(), *expected)
                    );
                    let back = read_record(&block.bytes, place, digest, &checksummer()).unwrap();
                    assert_eq!(back.body(), record.body());
                    assert!(
                        read_record(&block.bytes, place, Digest::from_u128(u128::MAX), &checksummer())
                            .is_err()
                    );
                    seen += 1;
                })
                .unwrap();
            assert_eq!(contents.remembered_until, block.remembered_until);
            assert_eq!(
                (contents.len as usize, contents.entries as usize),
                (block.bytes.len(), block.records.len())
            );
            assert!(read_index((block.due, number + 1), &block.index, &checksummer(), |_, _, _| ()).is_err());
        }
        assert_eq!(seen, 500);
    }

    #[test]
    fn an_entry_has_few_bytes_beside_key_and_body() {
        const DAY_MS: u64 = 86_400_000;
        let started = 1_800_000_000_000;
        let expires = Timestamp::from_millis(started + 300 + DAY_MS);
        let parts = RecordParts {
            key: &[b'k'; 36],
            fence: Fence::new(1_000_000),
            started: Timestamp::from_millis(started),
            completed: Timestamp::from_millis(started + 300),
            lifetime: Lifetime { expires, remembered_until: expires },
            body: &[b'x'; 140],
            ..RecordParts::example(1)
        };
        let records = vec![Record::new(&parts, None)];
        let blocks = pack(records, Timestamp::from_millis(started + 400), 0, &checksummer());
        let bytes =
            blocks[0].bytes.len() + INDEX_ENTRY - parts.scope.len() - parts.key.len() - parts.body.len();
        assert_eq!(bytes, 99);
    }

    #[test]
    fn a_short_life_is_never_kept_by_a_long_one() {
        let (soon, late) = (NOW.as_millis() + 1_000, NOW.as_millis() + 1_000_000);
        let blocks = pack(
            vec![record(1, late, 9), record(2, soon, 9), record(3, soon + 100, 9)],
            NOW,
            0,
            &checksummer(),
        );
        let due: Vec<_> = blocks.iter().map(|block| block.due.as_millis()).collect();
        assert_eq!(due, [soon + 100, late]);
    }

    #[test]
    fn a_block_is_due_with_its_bodies_and_where_there_are_none_with_its_keys() {
        let now = NOW.as_millis();
        let (soon, late) = (now + 1_000, now + 1_000_000);
        let records = vec![
            remembered(1, soon, late, 9),
            // Nothing would be won by moving this one when it expires.
            remembered(2, soon, late, 0),
            // Nobody will ever be given this body.
            remembered(3, now, late, 300),
        ];
        let blocks = pack(records, NOW, 0, &checksummer());
        let due: Vec<_> = blocks.iter().map(|block| (block.due.as_millis(), block.records.len())).collect();
        assert_eq!(due, [(soon, 1), (late, 2)]);
        assert!(blocks.iter().all(|block| block.remembered_until.as_millis() == late));
        let (record, place) = blocks[1].records.iter().find(|(record, _)| record.fence().get() == 3).unwrap();
        let back = read_record(&blocks[1].bytes, *place, record.digest(), &checksummer()).unwrap();
        assert_eq!((back.body(), back.is_body_kept()), (&b""[..], false));
        assert_eq!(back.lifetime(), record.lifetime());
    }

    #[test]
    fn short_records_come_in_short_blocks_and_none_leaves_much_of_a_page_empty() {
        let cases = [
            ([100; 3], PAGE_MIN),
            ([300; 3], PAGE_MIN),
            ([1_000; 3], 4 * PAGE_MIN),
            ([3_000; 3], PAGE_MAX),
            ([80, 700, 6_000], PAGE_MAX),
        ];
        for (bodies, longest) in cases {
            let lengths = bodies.into_iter().cycle();
            let records = (0..2_000).zip(lengths).map(|(n, body)| record(n, 5_000, body)).collect();
            let blocks = pack(records, NOW, 0, &checksummer());
            let page = |block: &Block| (block.bytes.len() + PAGE_OVERHEAD).next_power_of_two();
            assert_eq!(blocks.iter().map(page).max(), Some(longest), "{bodies:?}");
            let bytes: usize = blocks.iter().map(|block| block.bytes.len()).sum();
            let pages: usize = blocks.iter().map(page).sum();
            assert!(pages < bytes + bytes / 8, "{bodies:?}: {pages} bytes of pages for {bytes}");
        }
    }

    #[test]
    fn a_block_takes_what_has_place_in_its_page_and_no_more() {
        let short = (100..200).map(|body| (body, PAGE_MIN));
        for (body, page) in short.chain((4_000..4_020).map(|body| (body, PAGE_MAX))) {
            let records = (0..200).map(|n| record(n, 5_000, body)).collect();
            let blocks = pack(records, NOW, 0, &checksummer());
            let entry = blocks[0].bytes.len() / blocks[0].records.len();
            for block in &blocks[..blocks.len() - 1] {
                assert_eq!(block.bytes.len() % entry, 0);
                let left = page - PAGE_OVERHEAD - block.bytes.len();
                assert!(left < entry, "{left} bytes are left, an entry has {entry}");
            }
        }
    }

    #[test]
    fn a_block_outlives_its_first_entry_by_an_eighth_of_its_life() {
        let now = NOW.as_millis();
        for (last, together) in [(9_000, true), (9_001, false)] {
            let blocks =
                pack(vec![record(1, now + 8_000, 9), record(2, now + last, 9)], NOW, 0, &checksummer());
            assert_eq!(blocks.len() == 1, together, "{last}");
        }
    }

    #[test]
    fn a_body_over_the_block_size_has_a_block_of_its_own() {
        let blocks = pack(
            vec![record(1, 5_000, 10), record(2, 5_000, 1 << 20), record(3, 5_000, 10)],
            NOW,
            0,
            &checksummer(),
        );
        assert_eq!(blocks.iter().map(|block| block.records.len()).collect::<Vec<_>>(), [1, 1, 1]);
        let (record, place) = &blocks[1].records[0];
        let back = read_record(&blocks[1].bytes, *place, record.digest(), &checksummer()).unwrap();
        assert_eq!(back.body().len(), 1 << 20);
    }
}
