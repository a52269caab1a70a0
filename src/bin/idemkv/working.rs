//! What takes long: a line for the person who waits, with the time so far.

use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shown on the terminal of standard error, and gone when it is dropped. Without a terminal
/// nothing is shown.
pub(crate) struct Working(ProgressBar);

/// A path on one line: names of files may have what a terminal obeys.
pub(crate) fn shown(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

const TICK: Duration = Duration::from_millis(100);

impl Working {
    /// Work of which nobody knows how long it takes.
    pub(crate) fn start(what: String) -> Self {
        Self::with("{spinner} {msg}, {elapsed}", ProgressBar::new_spinner(), what)
    }

    /// Work on things that are counted.
    pub(crate) fn counting(what: String) -> Self {
        Self::with("{spinner} {msg}: {human_pos}, {elapsed}", ProgressBar::new_spinner(), what)
    }

    fn with(template: &str, bar: ProgressBar, what: String) -> Self {
        // A template that can't be read would be a fault of this file; the default one does too.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Counts one more.
    pub(crate) fn count(&self) {
        self.0.inc(1);
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
