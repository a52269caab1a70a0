//! How claims are completed: bodies, and what is said about the record.

use std::time::Duration;

use idemkv::{Completion, Fence, Outcome, Timestamp};

use crate::oracle::Reply;
use crate::script::Random;
use crate::setting::{TOMBSTONE_TTL, TTL};

pub(crate) struct Ending {
    pub(crate) completion: Completion,
    keeps_body: bool,
    ttl: Duration,
    remembered: Duration,
}

impl Ending {
    /// Nothing special.
    pub(crate) fn plain() -> Self {
        Self { completion: Completion::new(), keeps_body: true, ttl: TTL, remembered: TOMBSTONE_TTL }
    }

    /// A body, and usually nothing special.
    pub(crate) fn draw(random: &mut Random, fence: Fence) -> (Vec<u8>, Self) {
        let (body, usual) = (body(random, fence), Self::plain());
        let plain = usual.completion;
        let ending = match random.below(8) {
            0 => Self { completion: plain.tombstone_ttl(TTL), remembered: TTL, ..usual },
            1 => Self { completion: plain.ttl(TTL / 8), ttl: TTL / 8, ..usual },
            2 => Self { completion: plain.discard_body(), keeps_body: false, ..usual },
            _ => usual,
        };
        (body, ending)
    }

    pub(crate) fn reply(&self, outcome: Outcome, body: &[u8], fence: Fence, now: Timestamp) -> Reply {
        Reply {
            outcome,
            body: self.keeps_body.then(|| body.to_vec()),
            fence,
            expires: now.saturating_add(self.ttl),
            remembered_until: now.saturating_add(self.remembered),
        }
    }
}

/// Bytes that tell whose they are, sometimes as many as there may be.
pub(crate) fn body(random: &mut Random, fence: Fence) -> Vec<u8> {
    let len = if random.below(4) == 0 { 4_000 } else { random.below(300) };
    let mut body = fence.get().to_le_bytes().to_vec();
    body.resize(8 + usize::try_from(len).unwrap(), b'b');
    body
}
