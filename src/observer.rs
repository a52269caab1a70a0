//! Hooks for logs and metrics.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sync::Arc;
use crate::{Interruption, Record};

/// Is told of what an operator wants to see: replays, interruptions, reused keys. Set with
/// [`Options::observer`](crate::Options::observer).
///
/// The methods are called by whichever thread the thing happens on, with no lock held, and that thread waits for them: hand longer work
/// on. A panic in one goes no further.
///
/// ```
/// # use idemkv::{Begin, Engine, Fingerprint, Observer, Record};
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// #[derive(Default)]
/// struct Replays(AtomicU64);
///
/// impl Observer for Replays {
///     fn replayed(&self, _record: &Record) {
///         self.0.fetch_add(1, Ordering::Relaxed);
///     }
/// }
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("x.idem");
/// # let request = Fingerprint::of("request");
/// let replays = Arc::new(Replays::default());
/// let engine = Engine::options().observer(Arc::clone(&replays)).open(&path)?;
/// let Begin::Fresh(claim) = engine.begin("key", request)? else { panic!() };
/// claim.complete("reply")?;
/// assert!(matches!(engine.begin("key", request)?, Begin::Done(_)));
/// assert_eq!(replays.0.load(Ordering::Relaxed), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Observer: Send + Sync {
    /// A begin was answered with this record.
    fn replayed(&self, record: &Record) {
        let _ = record;
    }

    /// A claim ended without an outcome: it was dropped, its lease ran out, or the process that had it died (that is found when the
    /// file is opened).
    fn interrupted(&self, scope: &[u8], key: &[u8], interruption: &Interruption) {
        let _ = (scope, key, interruption);
    }

    /// A begin was refused because its key was used with another fingerprint.
    fn reused(&self, scope: &[u8], key: &[u8]) {
        let _ = (scope, key);
    }
}

/// The observer, if there is one.
#[derive(Clone, Default)]
pub(crate) struct Hooks(Option<Arc<dyn Observer>>);

impl Hooks {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Self {
        Self(Some(observer))
    }

    #[inline]
    pub(crate) fn call(&self, hook: impl FnOnce(&dyn Observer)) {
        if let Some(observer) = &self.0 {
            drop(catch_unwind(AssertUnwindSafe(|| hook(&**observer))));
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hooks").field(&self.0.is_some()).finish()
    }
}
