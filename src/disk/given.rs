//! Simulated disks that start with files from elsewhere.

use std::io;
use std::path::Path;

use super::Disk;
use super::sim::SimDisk;

impl SimDisk {
    /// Puts a file on the disk, durably, replacing a file of that name.
    ///
    /// # Errors
    ///
    /// As for any write: when the power is off, or the disk is full.
    pub fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.create(path, None)?;
        file.write_at(0, bytes)?;
        file.sync()
    }
}
