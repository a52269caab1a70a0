//! A script of calls, crashes and clock jumps, on an engine and on a naive model of its promises. See `tests/model`.
//!
//! Most scripts take over the engine of the one before, with scopes of their own, for openings cost more than calls. Where one fails,
//! all since the last new engine are written beside what libFuzzer writes, and the command that plays them again is told.

#![no_main]

#[path = "../../tests/model/calls.rs"]
mod calls;
#[path = "../../tests/model/key.rs"]
mod key;
#[path = "../../tests/model/script.rs"]
mod script;
#[path = "../../tests/model/world.rs"]
mod world;

use std::path::Path;
use std::sync::{LazyLock, Mutex};

use libfuzzer_sys::fuzz_target;
use script::Call;
use world::{Image, World};

/// The scripts since the last new engine.
static SCRIPTS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
static STAGE: LazyLock<Mutex<Stage>> = LazyLock::new(|| {
    tell_on_panic();
    Mutex::new(Stage { images: Image::all(), world: None })
});

struct Stage {
    images: Vec<Image>,
    world: Option<World>,
}

fn tell_how_to_repeat() {
    let Ok(scripts) = SCRIPTS.try_lock() else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts/api");
    drop(std::fs::create_dir_all(&folder));
    let mut files = String::new();
    for (number, script) in scripts.iter().enumerate() {
        let file = folder.join(format!("script-{number:02}"));
        match std::fs::write(&file, script) {
            Ok(()) => files = format!("{files} {}", file.display()),
            Err(error) => eprintln!("{} can't be written: {error}", file.display()),
        }
    }
    eprintln!("again: cargo fuzz run api{files}");
}

fn tell_on_panic() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell_how_to_repeat();
        abort(panic);
    }));
}

impl Stage {
    /// The first byte says whether the script has a new engine, from which file, and whether it ends with a kill.
    fn play(&mut self, first: u8, script: &[u8]) {
        let mut scripts = SCRIPTS.lock().unwrap();
        match &mut self.world {
            Some(world) if first % 16 != 0 && world.has_room_for_another() => world.start_over(),
            world => {
                *world = Some(World::new(&self.images[usize::from(first / 16) % self.images.len()]));
                scripts.clear();
            }
        }
        scripts.push([&[first], script].concat());
        drop(scripts);
        let world = self.world.as_mut().unwrap();
        calls::run(world, Call::all(script), first % 4 == 0);
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((first, script)) = input.split_first() else { return };
    STAGE.lock().unwrap().play(*first, script);
});
