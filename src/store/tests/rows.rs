//! Rows that are missing, damaged or not what was written.

use super::*;

#[test]
fn a_record_whose_block_is_missing_is_damaged_for_as_long_as_it_is_remembered() {
    let store = new_store(&SimDisk::new());
    let (record, place) = stored(&store, 7);
    assert_eq!(store.read(place, record.digest()).unwrap().unwrap().body(), b"body");
    alter(&store, remove_blocks);
    is_damage(store.read(place, record.digest()), "table `blocks`, row (2000, 1), offset 0");
    // There is nothing to make a tombstone of: that must not look as if the key were free.
    assert_eq!(reclaim(&store, EXPIRED, true), 0);
    is_damage(store.read(place, record.digest()), "table `blocks`");
    assert!(!store.has_due(EXPIRED) && store.has_due(FORGETTABLE));
    assert_eq!(reclaim(&store, FORGETTABLE, true), 1);
    assert!(store.read(place, record.digest()).unwrap().is_none());
}

#[test]
fn rows_that_are_missing_or_belong_elsewhere_are_noticed_when_the_file_is_opened() {
    let checksummer = Checksummer::new(&Secret(meta().secret));
    let policy = codec::ScopeRow { name: b"mild", policy: crate::Policy::default().row() };
    let mut scope = Vec::new();
    codec::encode_into(&policy, &mut scope);
    let row = checksummer.seal(SCOPES.name(), &[], &scope);
    let digest = Digest::from_u128(0xabc);
    let store = || {
        let store = new_store(&SimDisk::new());
        stored(&store, 7);
        store
    };

    let changed = store();
    alter(&changed, |transaction| {
        transaction.open_table(INDEX).unwrap().retain(|_, _| false).unwrap();
    });
    // As it is found by an opening: what this one knows it has read before.
    *changed.directory.write() = Directory::default();
    assert!(load(&changed).to_string().contains("0 blocks and 0 claims are there, 1 and 0 were written"));

    // One of the two is enough.
    let changed = store();
    let ended = Batch { claims: vec![(digest, b"row".to_vec())], ..Batch::default() };
    apply(&changed, &ended, NOW, true).unwrap();
    alter(&changed, |transaction| {
        transaction.open_table(CLAIMS).unwrap().retain(|_, _| false).unwrap();
    });
    assert!(load(&changed).to_string().contains("1 blocks and 0 claims are there, 1 and 1 were written"));

    for table in [CLAIMS, FORGOTTEN] {
        let changed = store();
        alter(&changed, |transaction| {
            transaction.open_table(table).unwrap().insert(digest.as_u128(), &b"not sealed"[..]).unwrap();
        });
        let place = format!("table `{}`, row {:032x}", table.name(), digest.as_u128());
        assert_eq!(load(&changed).place(), place);
    }

    // Sealed, but for another key, whichever half of the digest differs.
    for other in [digest.as_u128() + 1, digest.as_u128() + (1 << 64)] {
        let changed = store();
        let forgets = Batch { forgotten: vec![(digest, FORGETTABLE)], ..Batch::default() };
        apply(&changed, &forgets, NOW, true).unwrap();
        alter(&changed, |transaction| {
            let mut table = transaction.open_table(FORGOTTEN).unwrap();
            let row = table.remove(digest.as_u128()).unwrap().unwrap().value().to_vec();
            table.insert(other, row.as_slice()).unwrap();
        });
        assert_eq!(load(&changed).place(), format!("table `{}`, row {other:032x}", FORGOTTEN.name()));
    }

    let changed = store();
    alter(&changed, |transaction| {
        transaction.open_table(SCOPES).unwrap().insert(&b"strict"[..], row.as_slice()).unwrap();
    });
    let damage = load(&changed);
    assert_eq!(damage.place(), "table `idemkv.scopes`, row \"strict\"");
    assert!(damage.to_string().contains("another scope"), "{damage}");
}

#[test]
fn a_meta_row_in_a_log_shows_no_secret() {
    let shown = format!("{:?}", Meta { blocks: 7, secret: [123; 32], ..meta() });
    assert!(shown.contains("blocks: 7") && !shown.contains("123"), "{shown}");
}

#[test]
fn a_file_whose_start_can_not_be_read_may_be_ours_all_the_same() {
    let disk = SimDisk::new();
    new_store(&disk).close().unwrap();
    disk.fail_read(disk.reads());
    let refused = Store::open(&disk, path(), |_| 64 << 10, |_| false).map(drop);
    assert!(matches!(refused, Err(OpenError::Io(_))), "{refused:?}");
    open(&disk);
}

#[test]
fn a_new_file_that_cannot_be_named_is_told_from_one_that_is_there_already() {
    let mut refused = 0;
    for operation in 0.. {
        let disk = SimDisk::new();
        disk.fault_at(operation, DiskFault::Error);
        match Store::create(&disk, path(), Found::Nothing, &meta()) {
            Err(OpenError::Io(_)) => refused += 1,
            made => {
                assert!(made.unwrap(), "nobody else made it");
                break;
            }
        }
    }
    assert!(refused > 3, "{refused}");
}

#[test]
fn a_file_that_somebody_else_made_meanwhile_stays() {
    let disk = SimDisk::new();
    let store = new_store(&disk);
    assert!(!Store::create(&disk, path(), Found::Nothing, &Meta { salt: 99, ..meta() }).unwrap());
    drop(store);
    assert_eq!(open(&disk).meta(), meta());
}

/// What redb does to a block is measured by `benches/layout.rs`.
#[test]
fn a_block_takes_pages_of_a_power_of_two_and_its_part_of_the_index() {
    let bytes = |len, entries| {
        let contents = block::Contents { len, entries, remembered_until: EXPIRED };
        BlockInfo::new(EXPIRED, contents).file_bytes()
    };
    assert_eq!(bytes(1_000, 0), 1_024);
    assert_eq!(bytes(1_001, 0), 2_048);
    assert_eq!(bytes(8_168, 10), 8_192 + 260);
    assert_eq!(bytes(65_512, 10), 65_536 + 260);
}
