//! Rows that are missing, damaged or replaced.

use super::*;
use redb::ReadableDatabase;

#[test]
fn a_record_whose_block_is_missing_is_damaged_for_as_long_as_it_is_remembered() {
    let store = new_store(&SimDisk::new());
    let (record, place) = stored(&store, 7);
    assert_eq!(read(&store, place, record.digest()).unwrap().unwrap().body(), b"body");
    alter(&store, remove_blocks);
    is_damage(read(&store, place, record.digest()), "table `blocks`, row (2000, 1), offset 0");
    // There is nothing to make a tombstone of: that must not look as if the key were free.
    assert_eq!(reclaim(&store, EXPIRED, true), 0);
    is_damage(read(&store, place, record.digest()), "table `blocks`");
    assert!(!store.has_due(EXPIRED) && store.has_due(FORGETTABLE));
    assert_eq!(reclaim(&store, FORGETTABLE, true), 1);
    assert!(read(&store, place, record.digest()).unwrap().is_none());
}

/// A store with a row in each table.
fn store_with_rows() -> Store {
    let store = new_store(&SimDisk::new());
    stored(&store, 7);
    let mut scope = Vec::new();
    let policy = crate::Policy::default().row();
    codec::encode_into(&codec::ScopeRow { name: b"mild", policy }, &mut scope);
    let batch = Batch {
        claims: vec![(Digest::from_u128(8), intent(1))],
        forgotten: vec![(Digest::from_u128(9), FORGETTABLE)],
        scopes: vec![(b"mild"[..].into(), scope)],
        ..Batch::default()
    };
    apply(&store, &batch, NOW, true).unwrap();
    store
}

/// A claim's row.
fn intent(fence: u64) -> Vec<u8> {
    let mut row = Vec::new();
    let intent = codec::IntentRow {
        digest: 8,
        scope: b"",
        key: b"key",
        fingerprint: [7; 32],
        fence,
        attempt: 1,
        started_ms: 1,
        ttl_ms: 1,
        remembered_ms: 1,
        earlier: None,
        lease_ms: None,
        unresolved_ms: None,
    };
    let claim =
        codec::ClaimRow { intent, interrupted_ms: None, returned: false, detached: None, progress: None };
    codec::encode_into(&claim, &mut row);
    row
}

#[test]
fn a_row_that_is_missing_is_noticed_in_each_table_when_the_file_is_opened() {
    type Remove = fn(&WriteTransaction);
    let remove: [(&str, Remove); 4] = [
        (INDEX.name(), |transaction| {
            transaction.open_table(INDEX.definition).unwrap().retain(|_, _| false).unwrap();
        }),
        (CLAIMS.name(), |transaction| {
            transaction.open_table(CLAIMS.definition).unwrap().retain(|_, _| false).unwrap();
        }),
        (FORGOTTEN.name(), |transaction| {
            transaction.open_table(FORGOTTEN.definition).unwrap().retain(|_, _| false).unwrap();
        }),
        (SCOPES.name(), |transaction| {
            transaction.open_table(SCOPES.definition).unwrap().retain(|_, _| false).unwrap();
        }),
    ];
    for (table, remove) in remove {
        let changed = store_with_rows();
        alter(&changed, remove);
        let damage = load(&changed);
        assert_eq!(damage.place(), format!("table `{table}`"));
        assert!(damage.to_string().contains("0 rows are there, 1 were written"), "{damage}");
    }
}

#[test]
fn an_old_row_in_place_of_a_newer_one_is_noticed_when_the_file_is_opened() {
    let store = store_with_rows();
    let row = |store: &Store| {
        let database = store.access.database().ok().unwrap();
        let claims = CLAIMS.read(&database.begin_read().unwrap()).ok().unwrap();
        let (_, row) = claims.first().unwrap().unwrap();
        row.value().to_vec()
    };
    let old = row(&store);
    let batch = Batch { claims: vec![(Digest::from_u128(8), intent(2))], ..Batch::default() };
    apply(&store, &batch, NOW, true).unwrap();
    let new = row(&store);
    assert!(old.len() == new.len() && old != new);
    store.load(vec![|_: &[Stored]| ()], |_| (), |_, _| ()).unwrap();
    alter(&store, |transaction| {
        transaction.open_table(CLAIMS.definition).unwrap().insert(8, old.as_slice()).unwrap();
    });
    let damage = load(&store);
    assert_eq!(damage.place(), "table `idemkv.claims`");
    assert!(damage.to_string().contains("its 1 rows are not those that were written"), "{damage}");
}

#[test]
fn rows_that_belong_elsewhere_are_noticed_when_the_file_is_opened() {
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

    for table in [CLAIMS, FORGOTTEN] {
        let changed = store();
        alter(&changed, |transaction| {
            transaction
                .open_table(table.definition)
                .unwrap()
                .insert(digest.as_u128(), &b"not sealed"[..])
                .unwrap();
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
            let mut table = transaction.open_table(FORGOTTEN.definition).unwrap();
            let row = table.remove(digest.as_u128()).unwrap().unwrap().value().to_vec();
            table.insert(other, row.as_slice()).unwrap();
        });
        assert_eq!(load(&changed).place(), format!("table `{}`, row {other:032x}", FORGOTTEN.name()));
    }

    let changed = store();
    alter(&changed, |transaction| {
        transaction.open_table(SCOPES.definition).unwrap().insert(&b"strict"[..], row.as_slice()).unwrap();
    });
    let damage = load(&changed);
    assert_eq!(damage.place(), "table `idemkv.scopes`, row \"strict\"");
    assert!(damage.to_string().contains("another scope"), "{damage}");
}

#[test]
fn a_meta_row_in_a_log_shows_no_secret() {
    let shown = format!("{:?}", Meta { checkpointed_seq: 7, secret: [123; 32], ..meta() });
    assert!(shown.contains("checkpointed_seq: 7") && !shown.contains("123"), "{shown}");
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

/// `benches/layout.rs` measures redb's overhead for a block.
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
