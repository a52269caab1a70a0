//! The openings to which a log belongs: its header names the last two, by their salts.
//!
//! Every opening draws a new salt, and the store's meta row has the last one. A log that doesn't
//! name that salt is from an earlier opening, so later acknowledged entries are in another log.
//!
//! There are two places, each in its own sector. An opening writes its salt over the older one,
//! syncs, and then commits it to the store. So after a crash at any moment, one of the places has
//! the store's salt.

use std::path::Path;

use crate::codec::{CHECKSUM_BYTES, Checksummer};
use crate::disk::DiskFile;
use crate::error::{Damage, IoFailure, OpenError};

use super::frame::SECTOR;

/// Where the two places lie in the log.
const OFFSETS: [usize; 2] = [SECTOR, 2 * SECTOR];
const SALT_BYTES: usize = 8;
const BYTES: usize = SALT_BYTES + CHECKSUM_BYTES;

/// The content of one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecordLocation {
    /// Never written.
    Empty,
    /// The salt of an opening.
    Salt(u64),
    Damaged,
}

/// The openings that a log names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Openings([RecordLocation; 2]);

impl Openings {
    /// The openings of a log that was made in the opening with this salt.
    pub(super) fn first(salt: u64) -> Self {
        Self([RecordLocation::Salt(salt), RecordLocation::Empty])
    }

    /// Reads them from the header.
    pub(super) fn read(header: &[u8], checksummer: &Checksummer) -> Self {
        Self([0, 1].map(|place| {
            let Some(bytes) = OFFSETS.get(place).and_then(|at| header.get(*at..*at + BYTES)) else {
                return RecordLocation::Damaged;
            };
            let Some((salt, checksum)) = bytes.split_first_chunk::<SALT_BYTES>() else {
                return RecordLocation::Damaged;
            };
            let salt = u64::from_le_bytes(*salt);
            if bytes.iter().all(|byte| *byte == 0) {
                RecordLocation::Empty
            } else if *checksum == seal(checksummer, place, salt) {
                RecordLocation::Salt(salt)
            } else {
                RecordLocation::Damaged
            }
        }))
    }

    /// Writes both places into a header.
    pub(super) fn write(self, header: &mut [u8], checksummer: &Checksummer) {
        for (place, (at, what)) in OFFSETS.into_iter().zip(self.0).enumerate() {
            if let (RecordLocation::Salt(salt), Some(to)) = (what, header.get_mut(at..at + BYTES)) {
                to.copy_from_slice(&encode(checksummer, place, salt));
            }
        }
    }

    /// Whether the log belongs to the opening with this salt.
    pub(super) fn names(self, salt: u64) -> bool {
        self.0.contains(&RecordLocation::Salt(salt))
    }

    /// Checks that the log belongs to the opening with this salt.
    pub(super) fn check(self, log: &Path, salt: u64, opened_as: &str) -> Result<(), OpenError> {
        if self.names(salt) {
            return Ok(());
        }
        let damaged = self.0.iter().zip(OFFSETS).find(|(place, _)| **place == RecordLocation::Damaged);
        Err(match damaged {
            Some((_, at)) => {
                Damage::new(log, format!("offset {at}"), "the name of the opening it belongs to is damaged")
                    .into()
            }
            None => OpenError::LogOfEarlierOpening { log: log.to_owned(), opened_as: opened_as.into() },
        })
    }

    /// Names the opening with the salt `next`; `current` stays named. It is durable when the file
    /// is synced.
    pub(super) fn add(
        &mut self,
        file: &dyn DiskFile,
        path: &Path,
        checksummer: &Checksummer,
        current: u64,
        next: u64,
    ) -> Result<(), IoFailure> {
        let place = usize::from(self.0.first() == Some(&RecordLocation::Salt(current)));
        let [first, second] = OFFSETS;
        let at = if place == 0 { first } else { second };
        // A sector of its own, so that no crash reaches the other one.
        let mut sector = [0; SECTOR];
        for (to, from) in sector.iter_mut().zip(encode(checksummer, place, next)) {
            *to = from;
        }
        file.write_at(at as u64, &sector).map_err(|error| IoFailure::new(path, "writing", error))?;
        if let Some(what) = self.0.get_mut(place) {
            *what = RecordLocation::Salt(next);
        }
        Ok(())
    }
}

fn seal(checksummer: &Checksummer, place: usize, salt: u64) -> [u8; CHECKSUM_BYTES] {
    checksummer.checksum("opening", &[place as u64], &salt.to_le_bytes())
}

fn encode(checksummer: &Checksummer, place: usize, salt: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let (to_salt, to_checksum) = bytes.split_at_mut(SALT_BYTES);
    to_salt.copy_from_slice(&salt.to_le_bytes());
    to_checksum.copy_from_slice(&seal(checksummer, place, salt));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Secret;

    fn checksummer() -> Checksummer {
        Checksummer::new(&Secret([1; 32]))
    }

    fn check(openings: Openings, salt: u64) -> Result<(), OpenError> {
        openings.check(Path::new("x.idem-wal"), salt, "x.idem")
    }

    #[test]
    fn a_log_belongs_to_the_openings_it_names_and_to_no_other() {
        let mut header = vec![0; 4_096];
        Openings::first(7).write(&mut header, &checksummer());
        let read = Openings::read(&header, &checksummer());
        assert_eq!(read, Openings::first(7));
        assert!(check(read, 7).is_ok());
        assert!(matches!(check(read, 8), Err(OpenError::LogOfEarlierOpening { .. })));
        assert!(matches!(
            check(Openings::read(&header, &Checksummer::new(&Secret([2; 32]))), 7),
            Err(OpenError::Damaged(_))
        ));
    }

    #[test]
    fn a_flipped_bit_in_a_name_is_damage() {
        let mut header = vec![0; 4_096];
        Openings::first(7).write(&mut header, &checksummer());
        for bit in 0..BYTES * 8 {
            let mut flipped = header.clone();
            flipped[SECTOR + bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(check(Openings::read(&flipped, &checksummer()), 7), Err(OpenError::Damaged(_))),
                "bit {bit}"
            );
        }
    }
}
