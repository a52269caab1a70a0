//! Bits that flip in files after a crash: what is given is right, or refused with the place.

use std::path::Path;

use idemkv::OpenError;
use idemkv::sim::{CrashKind, ManualClock, SimDisk};

use crate::oracle::Oracle;
use crate::script::Random;
use crate::setting::options;

const FILE: &str = "x.idem";
const LOG: &str = "x.idem-wal";
/// A frame of the log: its magic, and where its parts lie, as `docs/file-format.md` has it.
const FRAME: &[u8; 4] = b"idmF";
const FRAME_HEADER: usize = 56;
const SECTOR: usize = 512;

/// Flips bits while a script runs.
pub(crate) struct Flips {
    random: Random,
    /// The oracle as it was when the last frame was written: what it may be taken for if that is
    /// damaged.
    pub(crate) under_way: Oracle,
    /// How many openings were refused.
    pub(crate) refused: u64,
}

impl Flips {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), under_way: Oracle::default(), refused: 0 }
    }

    /// Flips one bit of what a crash leaves now, some of the time; gives how many images were
    /// looked at.
    pub(crate) fn look(
        &mut self,
        disk: &SimDisk,
        oracle: &Oracle,
        clock: &ManualClock,
        keys: u64,
        at: &str,
    ) -> u64 {
        if disk.crashed() || self.random.below(2) == 0 {
            return 0;
        }
        let image = disk.image(CrashKind::DropAll);
        let file = if self.random.below(2) == 0 { FILE } else { LOG };
        let Some(bytes) = image.read(Path::new(file)) else { return 0 };
        let bit = self.draw(&bytes);
        let in_last_frame = file == LOG && last_frame(&bytes).contains(&(bit / 8));
        assert!(image.flip(Path::new(file), bit as u64));
        let at = format!("{at}, bit {} of byte {} of {file} flipped", bit % 8, bit / 8);
        match options(&image, &clock.fork()).open(FILE) {
            Ok(engine) => {
                let mut right = oracle.check_damaged(&engine, keys);
                if in_last_frame {
                    right = right.or_else(|wrong| {
                        let before = self.under_way.check_damaged(&engine, keys);
                        before.map_err(|also| format!("{wrong}; before the last frame, {also}"))
                    });
                }
                if let Err(wrong) = right {
                    panic!("{at}: {wrong}");
                }
                image.crash_at(image.operations());
            }
            Err(OpenError::Damaged(damage)) => {
                assert!(!damage.place().is_empty(), "{at}: {damage}");
                self.refused += 1;
            }
            Err(OpenError::Io(error)) => panic!("{at}: {error}"),
            Err(_) => self.refused += 1,
        }
        1
    }

    /// Any bit, or one of a byte that isn't zero: most of a file is.
    fn draw(&mut self, bytes: &[u8]) -> usize {
        let mut at = usize::try_from(self.random.below(bytes.len() as u64)).unwrap();
        if self.random.below(4) > 0 {
            at += bytes[at..].iter().position(|byte| *byte != 0).unwrap_or(0);
        }
        at * 8 + usize::try_from(self.random.below(8)).unwrap()
    }
}

/// Where the frame with the highest sequence lies.
fn last_frame(log: &[u8]) -> std::ops::Range<usize> {
    let number = |at: usize, len: usize| {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(&log[at..at + len]);
        u64::from_le_bytes(bytes)
    };
    let frames = (0..log.len()).step_by(SECTOR).filter(|at| log[*at..].starts_with(FRAME));
    let last = frames.max_by_key(|at| number(at + 24, 8));
    last.map_or(0..0, |at| at..at + FRAME_HEADER + usize::try_from(number(at + 4, 4)).unwrap())
}
