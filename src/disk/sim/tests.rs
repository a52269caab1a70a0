//! Tests of the simulated disk.

use super::*;

fn file(disk: &SimDisk) -> Arc<dyn DiskFile> {
    disk.create(Path::new("f"), None).unwrap()
}

#[test]
fn unsynced_writes_survive_as_the_crash_decides() {
    let disk = SimDisk::new();
    let file = file(&disk);
    file.write_at(0, &[1; 1_024]).unwrap();
    file.sync().unwrap();
    file.write_at(0, &[2; 1_024]).unwrap();
    let after = |kind| disk.image(kind).read(Path::new("f")).unwrap();
    assert_eq!(after(CrashKind::DropAll), [1; 1_024]);
    assert_eq!(after(CrashKind::KeepAll), [2; 1_024]);
    let torn = (0..50).map(|seed| after(CrashKind::Torn(seed)));
    let half = torn.filter(|bytes| bytes[..512] != bytes[512..]).count();
    assert!(half > 0, "no seed tore the write in the middle");
}

#[test]
fn every_subset_of_the_sectors_that_are_new_survives_by_its_number() {
    let disk = SimDisk::new();
    let file = file(&disk);
    file.write_at(0, &[1; 2_048]).unwrap();
    file.sync().unwrap();
    disk.record();
    let mut sectors = [1; 2_048];
    sectors[512..1_024].fill(2);
    sectors[1_536..].fill(3);
    file.write_at(0, &sectors).unwrap();
    file.set_len(2_048 + 512).unwrap();
    file.sync().unwrap();
    let moments = disk.take_moments();
    let before_sync = moments.last().unwrap();
    assert_eq!((before_sync.operation(), before_sync.pieces()), (Operation::Sync, 3));
    let found = |newest, older| {
        let bytes = before_sync.image(CrashKind::Subset { newest, older }).read(Path::new("f")).unwrap();
        (bytes[512], bytes[1_536], bytes.len())
    };
    assert_eq!(found(0, true), (1, 1, 2_048));
    assert_eq!(found(0b001, false), (1, 1, 2_560));
    assert_eq!(found(0b010, false), (1, 3, 2_048));
    assert_eq!(found(0b101, false), (2, 1, 2_560));
}

#[test]
fn a_failed_sync_loses_what_reads_still_show() {
    let disk = SimDisk::new();
    let file = file(&disk);
    file.write_at(0, b"lost").unwrap();
    disk.fail_syncs(Some("f"));
    assert!(file.sync().is_err());
    disk.fail_syncs(None);
    file.sync().unwrap();
    assert_eq!(disk.read(Path::new("f")).unwrap(), b"lost");
    assert_eq!(disk.image(CrashKind::KeepAll).read(Path::new("f")).unwrap(), b"");
}

#[test]
fn of_many_pieces_the_older_ones_survive_together() {
    let disk = SimDisk::new();
    let file = file(&disk);
    for byte in 1..=70 {
        file.write_at(u64::from(byte - 1) * 512, &[byte; 512]).unwrap();
    }
    let survive = |newest, older| {
        let bytes = disk.image(CrashKind::Subset { newest, older }).read(Path::new("f")).unwrap();
        let sectors = bytes.chunks(512).map(|sector| sector[0]).filter(|byte| *byte > 0);
        sectors.collect::<Vec<_>>()
    };
    assert_eq!(survive(0, true), [1, 2, 3, 4, 5, 6]);
    assert_eq!(survive(1, false), [70]);
    assert_eq!(survive(1 << 63, false), [7]);
}

#[test]
fn a_sync_that_lies_keeps_nothing_and_one_that_is_ignored_can_fail_all_the_same() {
    let disk = SimDisk::new();
    let file = file(&disk);
    let kept = || disk.image(CrashKind::DropAll).read(Path::new("f")).unwrap();
    file.write_at(0, b"lost").unwrap();
    disk.fault_at(disk.operations(), DiskFault::Lie);
    file.sync().unwrap();
    assert_eq!(kept(), b"");
    disk.ignore_syncs("f");
    file.sync().unwrap();
    assert_eq!(kept(), b"");
    disk.fault_at(disk.operations(), DiskFault::Error);
    assert!(file.sync().is_err());
    assert_eq!(kept(), b"");
}

#[test]
fn a_rename_survives_as_the_crash_decides_until_the_directory_is_synced() {
    let disk = SimDisk::new();
    let (old, new) = (Path::new("f"), Path::new("f-new"));
    disk.put(old, b"old").unwrap();
    disk.put(new, b"new").unwrap();
    disk.crash_at(disk.operations() + 1);
    assert!(disk.replace(new, old).is_err() && disk.crashed());
    disk.restart_process();
    let after = |kind| {
        let image = disk.image(kind);
        (image.read(old).unwrap(), image.read(new).is_some())
    };
    assert_eq!(after(CrashKind::KeepAll), (b"new".to_vec(), false));
    assert_eq!(after(CrashKind::DropAll), (b"old".to_vec(), true));
    let torn = (0..50).filter(|seed| after(CrashKind::Torn(*seed)).1).count();
    assert!((1..50).contains(&torn), "{torn}");
    assert!(!after(CrashKind::Subset { newest: 1, older: false }).1);
    assert!(after(CrashKind::Subset { newest: 0, older: false }).1);
    disk.fault_at(disk.operations(), DiskFault::Error);
    assert!(disk.sync_name(old).is_err());
    assert!(after(CrashKind::DropAll).1);
    disk.sync_name(old).unwrap();
    assert!(!after(CrashKind::DropAll).1);
}

/// Of a directory that was not synced, the system may have written any change.
#[test]
fn a_name_that_is_new_or_removed_decides_nothing_about_an_earlier_rename() {
    let (old, new, other) = (Path::new("f"), Path::new("f-new"), Path::new("g"));
    let renamed = || {
        let disk = SimDisk::new();
        disk.put(old, b"old").unwrap();
        disk.put(new, b"new").unwrap();
        disk.put(other, b"other").unwrap();
        disk.fault_at(disk.operations() + 1, DiskFault::Error);
        assert!(disk.replace(new, old).is_err());
        disk
    };
    let after = |disk: &SimDisk, kind| [old, new, other].map(|path| disk.image(kind).read(path));
    let bytes = |text: &str| Some(text.as_bytes().to_vec());
    for discards in [new, other] {
        let disk = renamed();
        assert_eq!(disk.discard(discards).is_ok(), discards == other);
        let left = if discards == other { None } else { bytes("other") };
        assert_eq!(after(&disk, CrashKind::KeepAll), [bytes("new"), None, left.clone()]);
        assert_eq!(after(&disk, CrashKind::DropAll), [bytes("old"), bytes("new"), left]);
    }
    let disk = renamed();
    disk.put(Path::new("h"), b"").unwrap();
    for kind in [CrashKind::KeepAll, CrashKind::DropAll] {
        assert_eq!(disk.image(kind).read(Path::new("h")), bytes(""));
    }
    assert_eq!(after(&disk, CrashKind::DropAll), [bytes("old"), bytes("new"), bytes("other")]);
}

#[test]
fn what_is_not_there_can_not_be_changed_removed_or_renamed() {
    let disk = SimDisk::new();
    let (here, gone) = (Path::new("f"), Path::new("g"));
    disk.put(here, b"1234").unwrap();
    assert!(disk.flip(here, 0) && !disk.flip(here, 4 * 8) && !disk.flip(gone, 0));
    assert!(disk.truncate(here, 9) && disk.truncate(here, 2) && !disk.truncate(gone, 2));
    assert_eq!((disk.read(here), disk.read(gone)), (Some(b"02".to_vec()), None));
    for renamed in [disk.publish(gone, here), disk.publish(gone, gone), disk.replace(gone, here)] {
        assert!(renamed.is_err());
    }
    assert_eq!(disk.read(here).unwrap(), b"02");
    assert!(disk.remove(here) && !disk.remove(here));
    assert_eq!(disk.open(here).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_crash_stops_everything_until_the_reboot() {
    let disk = SimDisk::new();
    let file = file(&disk);
    disk.crash_at(disk.operations());
    assert!(file.write_at(0, b"x").is_err() && file.len().is_err() && disk.crashed());
    disk.reboot(CrashKind::KeepAll);
    assert_eq!(disk.read(Path::new("f")).unwrap(), b"");
}

#[test]
fn a_full_disk_and_a_locked_file_say_so() {
    let disk = SimDisk::new();
    let file = file(&disk);
    disk.set_capacity(Some(10));
    assert_eq!(file.write_at(0, &[0; 11]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_at(0, &[0; 10]).unwrap();
    assert_eq!(disk.open(Path::new("f")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(file);
    assert!(disk.open(Path::new("f")).is_ok());
}
