//! Limits of options: the range of each, and the limits that several set together.

use std::time::Duration;

use super::options::{MIB, Options, PUBLISHED_BY_LEADER};
use crate::codec::ENTRY_OVERHEAD_MAX;
use crate::commit::Limits;
use crate::engine::common::limits::LimitsMax;
use crate::engine::common::namespace::SCOPE_MAX;
use crate::error::OptionError;
use crate::key::NAME_MAX;
use crate::wal::SEGMENT_BYTES;
use crate::wal::frame::{SECTOR, entry_bytes_max};

impl Options {
    pub(in crate::engine) fn check(&self) -> Result<(), OptionError> {
        self.policy.check()?;
        OptionError::unless_within("max_key_bytes", self.max_key_bytes, 1, NAME_MAX)?;
        OptionError::unless_within("max_body_bytes", self.max_body_bytes, 0, 16 * MIB)?;
        OptionError::unless_within("max_in_flight", self.max_in_flight, 1, usize::MAX)?;
        OptionError::unless_within("queue_bytes", self.queue_bytes, 4_096, usize::MAX)?;
        OptionError::unless_within("queue_entries", self.queue_entries, 1, usize::MAX)?;
        OptionError::unless_within("batch_bytes", self.batch_bytes, 4_096, 16 * MIB)?;
        OptionError::unless_within(
            "queue_timeout",
            self.queue_timeout,
            Duration::ZERO,
            Duration::from_secs(3_600),
        )?;
        OptionError::unless_within("shards", self.shards, 1, 65_536)?;
        if !self.shards.is_power_of_two() {
            return Err(OptionError::new("shards", self.shards, "a power of two"));
        }
        // Only now: what it is computed from is in range.
        let frame_max = self.frame_max();
        OptionError::unless_within(
            "log_segment_bytes",
            self.log_segment_bytes,
            (4 * frame_max).max(*SEGMENT_BYTES.start()),
            *SEGMENT_BYTES.end(),
        )?;
        if !self.log_segment_bytes.is_multiple_of(SECTOR as u64) {
            return Err(OptionError::new("log_segment_bytes", self.log_segment_bytes, "a multiple of 512"));
        }
        OptionError::unless_within("log_bytes", self.log_bytes, 2 * self.log_segment_bytes, 64 << 30)
    }

    /// Bytes of log that the longest frame takes.
    pub(crate) fn frame_max(&self) -> u64 {
        let entry = ENTRY_OVERHEAD_MAX + SCOPE_MAX + self.key_and_body_max();
        entry_bytes_max(entry.max(self.batch_bytes)) as u64
    }

    /// The most bytes of a key and a body, or of a key and progress, together. The key may be
    /// from a time when `max_key_bytes` was higher.
    pub(crate) fn key_and_body_max(&self) -> usize {
        (self.max_key_bytes + self.max_body_bytes).max(NAME_MAX)
    }

    pub(crate) fn limits_max(&self) -> LimitsMax {
        LimitsMax {
            in_flight: self.max_in_flight,
            waiters: self.max_waiters,
            progress_bytes: self.max_progress_bytes,
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            group_bytes: self.batch_bytes,
            queue_bytes: self.queue_bytes,
            queue_entries: self.queue_entries,
            published_by_leader: PUBLISHED_BY_LEADER,
        }
    }

    /// The most bytes of segments that the log may have, in whole segments.
    pub(crate) fn log_bytes_max(&self) -> u64 {
        self.log_bytes - self.log_bytes % self.log_segment_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The defaults fit together: the log has space for as many claims as may be in flight, with
    /// names of any length.
    #[test]
    fn the_default_log_has_room_for_all_claims_that_may_be_out() {
        let options = Options::default();
        let names = ENTRY_OVERHEAD_MAX + SCOPE_MAX + options.max_key_bytes;
        let claim = entry_bytes_max(names) + entry_bytes_max(names + options.reserve_bytes);
        let segments = options.log_bytes_max() / options.log_segment_bytes;
        // One segment less: what is not yet freed by a checkpoint.
        let room = (segments - 1) * (options.log_segment_bytes - options.frame_max());
        assert!((options.max_in_flight * claim) as u64 <= room, "{claim} bytes a claim");
    }

    #[test]
    fn the_defaults_are_within_range() {
        assert_eq!(Options::default().check(), Ok(()));
    }

    #[test]
    fn every_option_out_of_range_is_refused_by_name() {
        let options = Options::default;
        let cases = [
            (options().ttl(Duration::ZERO), "ttl"),
            (options().ttl(Duration::MAX), "ttl"),
            (options().tombstone_ttl(Duration::from_secs(1)), "tombstone_ttl"),
            (options().tombstone_ttl(Duration::MAX), "tombstone_ttl"),
            (options().max_key_bytes(0), "max_key_bytes"),
            (options().max_key_bytes(4_097), "max_key_bytes"),
            (options().max_body_bytes(17 << 20), "max_body_bytes"),
            (options().max_in_flight(0), "max_in_flight"),
            (options().queue_bytes(0), "queue_bytes"),
            (options().queue_entries(0), "queue_entries"),
            (options().batch_bytes(1), "batch_bytes"),
            (options().queue_timeout(Duration::MAX), "queue_timeout"),
            (options().shards(3), "shards"),
            (options().shards(0), "shards"),
            (options().log_segment_bytes(1 << 20), "log_segment_bytes"),
            (options().log_segment_bytes((8 << 20) + 1), "log_segment_bytes"),
            (options().log_bytes(1), "log_bytes"),
        ];
        for (options, name) in cases {
            let error = options.check().unwrap_err();
            assert_eq!(error.name(), name);
            assert!(error.to_string().contains("allowed is"), "{error}");
        }
    }
}
