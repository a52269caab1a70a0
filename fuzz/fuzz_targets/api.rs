//! A script of calls, crashes and clock jumps, on an engine and on a naive model of its promises. See `tests/model`.

#![no_main]

#[path = "../../tests/model/calls.rs"]
mod calls;
#[path = "../../tests/model/key.rs"]
mod key;
#[path = "../../tests/model/script.rs"]
mod script;
#[path = "../../tests/model/world.rs"]
mod world;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use script::Call;
use world::{Image, World};

fn images() -> &'static [Image] {
    static IMAGES: OnceLock<Vec<Image>> = OnceLock::new();
    IMAGES.get_or_init(Image::all)
}

fuzz_target!(|input: &[u8]| {
    let Some((image, script)) = input.split_first() else { return };
    let images = images();
    let mut world = World::new(&images[usize::from(*image) % images.len()]);
    calls::run(&mut world, Call::all(script), *image < 128);
});
