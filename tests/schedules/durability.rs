//! A caller that is told something could lose the power that instant, and find it again.

use std::sync::Arc;

use idemkv::sim::CrashKind;
use idemkv::tables::redb::{ReadableTable, ReadableTableMetadata, TableDefinition};
use idemkv::{Begin, Claim, CompleteInError, Engine, Record, Status};
use shuttle::future::block_on;
use shuttle::thread::spawn;

use super::common::request;
use super::world::{FOR_EVER, Setup, World, explore, one_in};

/// What would be found if the power went now.
fn found(world: &World) -> Engine {
    world.opened_on(&world.disk.image(CrashKind::DropAll))
}

fn is_durable(world: &World, record: &Record) {
    let status = found(world).scope("keys").get("key").unwrap();
    let Status::Done(kept) = &status else { panic!("{record:?} is {status:?} after a crash") };
    assert_eq!((kept.fence(), kept.body()), (record.fence(), record.body()));
}

/// A claim that is out is interrupted in the crash, and a later attempt is told.
fn is_remembered(world: &World, claim: &Claim) {
    let status = found(world).scope("keys").get("key").unwrap();
    let Status::Interrupted(attempt) = &status else { panic!("{claim:?} is {status:?} after a crash") };
    assert_eq!(attempt.fence(), claim.fence());
}

/// Begins, and completes or looks on; whatever it is told has to be on the disk.
fn work(world: &World, is_task: bool) {
    let scope = &world.scope;
    let begun = if is_task {
        block_on(scope.begin_or_wait_async("key", request(), FOR_EVER))
    } else {
        scope.begin_or_wait("key", request(), FOR_EVER)
    };
    match begun.unwrap() {
        Begin::Fresh(claim) => {
            if one_in(4) {
                is_remembered(world, &claim);
            }
            if one_in(4) {
                return drop(claim);
            }
            let body = claim.fence().get().to_le_bytes();
            let record = if is_task { block_on(claim.complete_async(body)) } else { claim.complete(body) };
            if one_in(2) {
                is_durable(world, &record.unwrap());
            }
        }
        Begin::Done(record) => is_durable(world, &record),
        Begin::InFlight(_) => panic!("it does not wait for ever"),
    }
}

#[test]
fn what_callers_are_told_survives_a_crash_at_that_instant() {
    explore("schedules::a_crash_at_that_instant", 4, Setup::default(), |world| {
        let workers = [false, true].map(|is_task| {
            let world = Arc::clone(&world);
            spawn(move || work(&world, is_task))
        });
        if one_in(3) {
            world.engine.checkpoint().unwrap();
        }
        workers.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(world.engine.clone().close().unwrap().claims_left, 0);
    });
}

const EFFECTS: TableDefinition<'_, &[u8], u64> = TableDefinition::new("effects");

/// Has its effect in the file, or completes without one.
fn book(world: &World, key: &str) {
    let claim = match world.scope.begin_or_wait(key, request(), FOR_EVER).unwrap() {
        Begin::Fresh(claim) => claim,
        Begin::Done(_) => return,
        Begin::InFlight(_) => panic!("it does not wait for ever"),
    };
    let fence = claim.fence().get();
    let booked = claim.complete_in(|tables| {
        let mut effects = tables.open_table(EFFECTS).unwrap();
        shuttle::thread::yield_now();
        let before = effects.get(key.as_bytes()).unwrap().map(|fence| fence.value());
        assert_eq!(before, None, "{key} was booked before");
        effects.insert(key.as_bytes(), fence).unwrap();
        shuttle::thread::yield_now();
        if one_in(3) { Err("not now") } else { Ok("booked") }
    });
    match booked {
        Ok(record) => assert_eq!(record.body(), b"booked"),
        // The claim comes back, and is dropped.
        Err(CompleteInError::Work { error, claim }) => {
            assert_eq!(error, "not now");
            drop(claim);
        }
        Err(error) => panic!("{key}: {error:?}"),
    }
}

/// Every key that is done has its effect, and no other has.
fn are_booked(engine: &Engine, keys: &[&str]) {
    let scope = engine.scope("keys");
    let done: Vec<&&str> =
        keys.iter().filter(|key| matches!(scope.get(key).unwrap(), Status::Done(_))).collect();
    let (count, booked) = engine
        .read_tables(|tables| match tables.open_table(EFFECTS) {
            Ok(effects) => {
                let is_booked = |key: &&&str| effects.get(key.as_bytes()).unwrap().is_some();
                (effects.len().unwrap(), done.iter().filter(|key| is_booked(key)).count())
            }
            Err(_) => (0, 0),
        })
        .unwrap();
    assert_eq!((count, booked), (done.len() as u64, done.len()));
}

#[test]
fn an_effect_in_the_same_file_is_there_if_and_only_if_its_claim_is_completed() {
    explore("schedules::an_effect_in_the_same_file", 4, Setup::default(), |world| {
        let workers = ["one", "two", "one"].map(|key| {
            let world = Arc::clone(&world);
            spawn(move || book(&world, key))
        });
        let engine = world.engine.clone();
        let house = spawn(move || engine.checkpoint().unwrap());
        if one_in(2) {
            are_booked(&found(&world), &["one", "two"]);
        }
        workers.into_iter().for_each(|thread| thread.join().unwrap());
        house.join().unwrap();
        are_booked(&world.engine, &["one", "two"]);
        assert_eq!(world.engine.clone().close().unwrap().claims_left, 0);
    });
}
