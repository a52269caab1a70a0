//! For tests: code that runs wherever the calling thread has read the engine's clock, so that a
//! thread can be held up, or panic, at that place.

use std::cell::RefCell;

use crate::sync::thread_local;

type Code = Box<dyn FnMut()>;

thread_local! {
    static CODE: RefCell<Option<Code>> = const { RefCell::new(None) };
}

/// Runs `body`; the thread runs `code` after each of its readings.
pub(crate) fn with<R>(code: impl FnMut() + 'static, body: impl FnOnce() -> R) -> R {
    CODE.with(|place| *place.borrow_mut() = Some(Box::new(code)));
    let result = body();
    CODE.with(|place| drop(place.borrow_mut().take()));
    result
}

/// Not within itself. A panic of the code is its last act.
pub(super) fn run() {
    let code = CODE.try_with(|place| place.borrow_mut().take()).ok().flatten();
    if let Some(mut code) = code {
        code();
        CODE.with(|place| *place.borrow_mut() = Some(code));
    }
}
