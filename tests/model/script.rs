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
    Drop(u8),
    Note(u8, u8),
    Renew(u8),
    IntoToken(u8),
    /// Which token, in which scope, and whether it is altered.
    Resume(u8, u8, u8),
    Resolve(Who),
    Forget(Who),
    Get(Who),
    Entries,
    Declare(u8, u8),
    Flush,
    Step,
    Checkpoint,
    Close,
    Kill,
    /// After how many operations of the disk the power goes, and what becomes of what was not synced.
    Crash(u8, u8),
    /// The same, and the power goes again while the file is opened.
    CrashAgain(u8, u8),
    Advance(u8),
    /// To one of the times at which something ends, or next to it.
    AdvanceTo(u8, u8),
    SetWall(u8),
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

/// Bytes of a call.
pub const CALL_BYTES: usize = 4;

impl Call {
    pub fn of([what, who, a, b]: [u8; CALL_BYTES]) -> Self {
        match what % 48 {
            0..9 => Self::Begin(Who::of(who)),
            9 => Self::BeginMany(Who::of(who), a),
            10..14 => Self::Complete(who, a, b),
            14 => Self::Fail(who, a, b),
            15 => Self::CompleteMany(who, a),
            16 => Self::CompleteIn(who, a),
            17 | 18 => Self::Release(who),
            19 | 20 => Self::Drop(who),
            21 | 22 => Self::Note(who, a),
            23 => Self::Renew(who),
            24 | 25 => Self::IntoToken(who),
            26 | 27 => Self::Resume(who, a, b),
            28 | 29 => Self::Resolve(Who::of(who)),
            30 => Self::Forget(Who::of(who)),
            31 | 32 => Self::Get(Who::of(who)),
            33 => Self::Entries,
            34 | 35 => Self::Declare(who, a),
            36 => Self::Flush,
            37 => Self::Step,
            38 => Self::Checkpoint,
            39 => Self::Close,
            40 => Self::Kill,
            41 | 42 => Self::Crash(a, b),
            43 => Self::CrashAgain(a, b),
            44 => Self::Advance(a),
            45 | 46 => Self::AdvanceTo(a, b),
            _ => Self::SetWall(a),
        }
    }

    /// The calls that these bytes are; what is left over is none.
    pub fn all(bytes: &[u8]) -> impl Iterator<Item = Self> + '_ {
        bytes.as_chunks::<CALL_BYTES>().0.iter().map(|bytes| Self::of(*bytes))
    }
}
