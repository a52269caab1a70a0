//! Scripts of calls, decoded from bytes.

/// One call of a script. Numbers choose among what there is; the world takes their remainders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Begin(Who),
    BeginMany(Who, u8),
    /// Which claim, which body, which times.
    Complete(u8, u8, u8),
    Fail(u8, u8, u8),
    CompleteMany(u8, u8),
    CompleteIn(u8, u8),
    Release(u8),
    PutBack(u8),
    Drop(u8),
    Note(u8, u8),
    Renew(u8),
    IntoToken(u8),
    /// Which token, in which scope, and whether it is altered.
    Resume(u8, u8, u8),
    Resolve(Who),
    /// Only an attempt that was seen: just now, or some time ago.
    ResolveIf(Who, u8),
    Forget(Who),
    Get(Who),
    Entries,
    Declare(u8, u8),
    Flush,
    Step,
    Checkpoint,
    Close,
    Kill,
    /// After how many operations of the disk the power goes, and what becomes of what was not
    /// synced.
    Crash(u8, u8),
    /// The same, and the power goes again while the file is opened.
    CrashAgain(u8, u8),
    Advance(u8),
    /// To one of the times at which something ends, or next to it.
    AdvanceTo(u8, u8),
    SetWall(u8),
    Sleep(u8),
    /// A clean close, a while without power, and the next boot.
    Restart(u8),
}

/// A key, and who asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    pub scope: usize,
    pub key: usize,
    pub request: usize,
}

pub const SCOPES: usize = 3;
pub const KEYS: usize = 4;

impl Who {
    fn of(byte: u8) -> Self {
        let byte = usize::from(byte);
        // One in eight brings another request.
        Self {
            key: byte % KEYS,
            scope: byte / KEYS % SCOPES,
            request: usize::from(byte / (KEYS * SCOPES) % 8 == 7),
        }
    }
}

/// Bytes of a call: its kind, then who or which, and two numbers more.
pub const CALL_BYTES: usize = 4;

// Where the kinds start, by the first byte: the more likely one is, the more numbers it has.
pub const BEGIN: u8 = 0;
pub const BEGIN_MANY: u8 = 9;
pub const COMPLETE: u8 = 10;
pub const FAIL: u8 = 14;
pub const COMPLETE_MANY: u8 = 15;
pub const COMPLETE_IN: u8 = 16;
pub const RELEASE: u8 = 17;
pub const DROP: u8 = 19;
pub const NOTE: u8 = 21;
pub const RENEW: u8 = 23;
pub const INTO_TOKEN: u8 = 24;
pub const RESUME: u8 = 26;
pub const RESOLVE: u8 = 28;
pub const FORGET: u8 = 30;
pub const GET: u8 = 31;
pub const ENTRIES: u8 = 33;
pub const DECLARE: u8 = 34;
pub const FLUSH: u8 = 36;
pub const STEP: u8 = 37;
pub const CHECKPOINT: u8 = 38;
pub const CLOSE: u8 = 39;
pub const KILL: u8 = 40;
pub const CRASH: u8 = 41;
pub const CRASH_AGAIN: u8 = 43;
pub const ADVANCE: u8 = 44;
pub const ADVANCE_TO: u8 = 45;
pub const SET_WALL: u8 = 47;
pub const SLEEP: u8 = 48;
pub const RESTART: u8 = 49;
pub const PUT_BACK: u8 = 50;
pub const RESOLVE_IF: u8 = 52;
const KINDS: u8 = 54;

impl Call {
    pub fn of([what, who, a, b]: [u8; CALL_BYTES]) -> Self {
        match what % KINDS {
            BEGIN..BEGIN_MANY => Self::Begin(Who::of(who)),
            BEGIN_MANY..COMPLETE => Self::BeginMany(Who::of(who), a),
            COMPLETE..FAIL => Self::Complete(who, a, b),
            FAIL..COMPLETE_MANY => Self::Fail(who, a, b),
            COMPLETE_MANY..COMPLETE_IN => Self::CompleteMany(who, a),
            COMPLETE_IN..RELEASE => Self::CompleteIn(who, a),
            RELEASE..DROP => Self::Release(who),
            DROP..NOTE => Self::Drop(who),
            NOTE..RENEW => Self::Note(who, a),
            RENEW..INTO_TOKEN => Self::Renew(who),
            INTO_TOKEN..RESUME => Self::IntoToken(who),
            RESUME..RESOLVE => Self::Resume(who, a, b),
            RESOLVE..FORGET => Self::Resolve(Who::of(who)),
            FORGET..GET => Self::Forget(Who::of(who)),
            GET..ENTRIES => Self::Get(Who::of(who)),
            ENTRIES..DECLARE => Self::Entries,
            DECLARE..FLUSH => Self::Declare(who, a),
            FLUSH..STEP => Self::Flush,
            STEP..CHECKPOINT => Self::Step,
            CHECKPOINT..CLOSE => Self::Checkpoint,
            CLOSE..KILL => Self::Close,
            KILL..CRASH => Self::Kill,
            CRASH..CRASH_AGAIN => Self::Crash(a, b),
            CRASH_AGAIN..ADVANCE => Self::CrashAgain(a, b),
            ADVANCE..ADVANCE_TO => Self::Advance(a),
            ADVANCE_TO..SET_WALL => Self::AdvanceTo(a, b),
            SET_WALL..SLEEP => Self::SetWall(a),
            SLEEP..RESTART => Self::Sleep(a),
            RESTART..PUT_BACK => Self::Restart(a),
            PUT_BACK..RESOLVE_IF => Self::PutBack(who),
            _ => Self::ResolveIf(Who::of(who), a),
        }
    }

    /// The calls that these bytes are; what is left over is none.
    pub fn all(bytes: &[u8]) -> impl Iterator<Item = Self> + '_ {
        bytes.as_chunks::<CALL_BYTES>().0.iter().map(|bytes| Self::of(*bytes))
    }
}
