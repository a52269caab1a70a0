//! A real file system whose power is cut: a process is killed, what its file system has not made
//! durable is thrown away, and the next process opens what is left.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::budget::Budget;
use crate::life::{File, Moment, Place, torment_files};
use crate::oracle::{Oracle, Verdict};
use crate::{Random, works};

const KILLS: u64 = 8;

/// A file system in a file, mounted. It needs root, and Debian's `xfsprogs` for the power cut.
struct Volume {
    directory: TempDir,
    path: PathBuf,
}

impl Volume {
    fn make(kind: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
        std::fs::create_dir(directory.path().join("mounted")).unwrap();
        let made = works(&format!("mkfs.{kind}"), &["-q", image.to_str().unwrap()]);
        let path = directory.path().join("mounted").join("tormented.idem");
        let volume = Self { directory, path };
        (made && volume.mount()).then_some(volume)
    }

    fn mounted(&self) -> &str {
        self.path.parent().unwrap().to_str().unwrap()
    }

    fn mount(&self) -> bool {
        let image = self.directory.path().join("image");
        works("mount", &["-o", "loop", image.to_str().unwrap(), self.mounted()])
    }

    fn unmount(&self) -> bool {
        works("umount", &[self.mounted()])
    }

    /// Everything that is not durable is gone, as after a power cut.
    fn cut_power(&self) {
        assert!(works("xfs_io", &["-x", "-c", "shutdown", self.mounted()]));
        let started = Instant::now();
        loop {
            assert!(self.unmount());
            assert!(self.mount());
            // A process with mounts of its own, of another test, may have kept the file system
            // that is shut down: then it is back.
            if std::fs::metadata(self.mounted()).is_ok() {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(120), "the file system does not go");
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.unmount();
    }
}

impl Place for Volume {
    fn path(&self) -> &Path {
        &self.path
    }

    fn keep(self) -> String {
        "nowhere".to_owned()
    }
}

fn volume(kind: &str) -> Option<Volume> {
    let can = Command::new("xfs_io").arg("-V").output().is_ok();
    let volume = if can { Volume::make(kind) } else { None };
    if volume.is_none() {
        println!("SKIPPED: needs root, mkfs.{kind}, a loop device, and xfs_io");
    }
    volume
}

fn torment(volume: &Volume, file: &mut File, random: &mut Random, oracle: &mut Oracle) -> Verdict {
    for _ in 0..KILLS {
        file.kill(Moment::draw(random), random, oracle)?;
        volume.cut_power();
    }
    file.walk(oracle)
}

/// The power cut itself is tested: one that loses nothing would prove nothing.
#[test]
fn a_power_cut_of_a_file_system_loses_what_was_not_synced_and_nothing_else() {
    for kind in ["ext4", "xfs"] {
        let Some(volume) = volume(kind) else { return };
        let file = |name: &str| Path::new(volume.mounted()).join(name);
        std::fs::write(file("synced"), "kept").unwrap();
        std::fs::File::open(file("synced")).unwrap().sync_all().unwrap();
        std::fs::write(file("not-synced"), "lost").unwrap();
        volume.cut_power();
        assert_eq!(std::fs::read(file("synced")).unwrap(), b"kept");
        assert!(
            std::fs::read(file("not-synced")).is_ok_and(|bytes| bytes.is_empty())
                || !file("not-synced").exists()
        );
    }
}

#[test]
fn a_power_cut_of_a_real_file_system_loses_nothing_acknowledged() {
    for kind in ["ext4", "xfs"] {
        if volume(kind).is_none() {
            return;
        }
        let rig = "real::power::a_power_cut_of_a_real_file_system_loses_nothing_acknowledged";
        let totals = torment_files(
            Budget::new(rig, "real power cuts", 1),
            || volume(kind).expect("it could be made a moment ago"),
            torment,
        );
        assert!(totals.done > 0 && totals.granted > 0);
    }
}
