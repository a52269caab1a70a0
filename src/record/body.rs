//! `Body`: a record's body as an owned buffer.

use std::fmt;
use std::ops::Deref;

use super::Record;

impl Record {
    /// The stored reply as an owned buffer that shares this record's memory; see [`Body`].
    #[must_use]
    pub fn into_body(self) -> Body {
        Body(self)
    }
}

/// A record's body as an owned, shared buffer: no copy is made on the way into a response.
///
/// It is `AsRef<[u8]> + Send + 'static`, as `bytes::Bytes` requires of an owner:
///
/// ```
/// # use idemkv::{Begin, Engine, Fingerprint};
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("x.idem"))?;
/// # let Begin::Fresh(claim) = engine.default_scope().begin("key", Fingerprint::of("request"))? else { panic!() };
/// let record = claim.complete("reply")?;
/// let at = record.body().as_ptr();
/// let bytes = bytes::Bytes::from_owner(record.into_body());
/// assert_eq!(bytes, "reply");
/// assert_eq!(bytes.as_ptr(), at); // the same memory
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Body(Record);

/// Its length.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.as_ref().len())
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.0.body()
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.body()
    }
}
