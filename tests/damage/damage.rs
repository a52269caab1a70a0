//! Damage to files, decoded from bytes.

use crate::specimen::{Files, Found, Specimen};

/// What damage is decoded from; zeros where it ends.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> usize {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                usize::from(*first)
            }
            None => 0,
        }
    }

    fn word(&mut self) -> usize {
        self.byte() | self.byte() << 8
    }

    /// A place in so many bytes: a sector, and an offset in it.
    fn place(&mut self, len: usize) -> usize {
        (self.word() * 512 + self.byte() * 2) % len.max(1)
    }
}

/// Opens damaged files and judges what they say: the first two bytes choose the file and the log,
/// which may be of another engine; then each byte chooses a kind of damage.
pub fn examine(specimens: &[Specimen], script: &[u8]) -> Found {
    let mut script = Script(script);
    let specimen = &specimens[script.byte() % specimens.len()];
    let mut files = specimen.files.clone();
    let mut has_log = true;
    match script.byte() {
        0 => has_log = false,
        other if other % 8 == 1 => {
            files.log.clone_from(&specimens[other / 8 % specimens.len()].files.log);
        }
        other if other % 8 == 2 => {
            files.log.clone_from(&specimen.older[other / 8 % specimen.older.len()].log);
        }
        other if other % 8 == 3 => {
            files.store.clone_from(&specimen.older[other / 8 % specimen.older.len()].store);
        }
        _ => {}
    }
    while !script.0.is_empty() {
        damage(&mut files, specimens, &specimen.older, &mut script);
    }
    specimen.examine(&files, has_log)
}

fn damage(files: &mut Files, specimens: &[Specimen], older: &[Files], script: &mut Script<'_>) {
    let kind = script.byte();
    let is_log = kind / 16 % 2 == 1;
    let bytes = if is_log { &mut files.log } else { &mut files.store };
    let (at, len) = (script.place(bytes.len()), bytes.len());
    match kind % 16 {
        0..4 => {
            let bit = script.byte() % 8;
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit);
        }
        4..6 => {
            for to in bytes.iter_mut().skip(at).take(1 + kind / 64) {
                *to = u8::try_from(script.byte()).unwrap_or_default();
            }
        }
        6 => bytes.truncate(at),
        7 => bytes.resize(len + script.word(), u8::try_from(script.byte()).unwrap_or_default()),
        8 => {
            let sectors = 1 + script.byte();
            bytes.iter_mut().skip(at / 512 * 512).take(512 * sectors).for_each(|byte| *byte = 0);
        }
        9 => {
            let len = script.word();
            bytes.iter_mut().skip(at).take(len).for_each(|byte| *byte = 0);
        }
        10 | 11 => {
            // Some of it a second time, or in place of something else.
            let from = script.place(len);
            let copied: Vec<u8> = bytes.iter().skip(from).take(1 + script.word()).copied().collect();
            bytes.iter_mut().skip(at).zip(copied).for_each(|(to, from)| *to = from);
        }
        12 | 13 => {
            let (from, run) = (script.place(len), 1 + script.word());
            (0..run).filter(|n| from.max(at) + n < len).for_each(|n| bytes.swap(at + n, from + n));
        }
        _ => {
            // Of another engine, or of another time.
            let other = script.byte();
            let other = match kind % 16 {
                14 => &specimens[other % specimens.len()].files,
                _ => &older[other % older.len()],
            };
            let other = if is_log { &other.log } else { &other.store };
            let run = 1 + script.word();
            bytes.iter_mut().zip(other).skip(at).take(run).for_each(|(to, from)| *to = *from);
        }
    }
}
