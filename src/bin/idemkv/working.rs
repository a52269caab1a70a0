//! `Working`: a line on the terminal that says what a long subcommand does, and for how long.

use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shown on the terminal of standard error, and removed when it is dropped. Without a terminal
/// nothing is shown.
pub(crate) struct Working(ProgressBar);

/// A path on one line, without control sequences: the name of a file can have some.
pub(crate) fn shown(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

const TICK: Duration = Duration::from_millis(100);

impl Working {
    /// Work whose length is not known.
    pub(crate) fn start(what: String) -> Self {
        Self::with("{spinner} {msg}, {elapsed}", ProgressBar::new_spinner(), what)
    }

    /// Work on things that are counted.
    pub(crate) fn counting(what: String) -> Self {
        Self::with("{spinner} {msg}: {human_pos}, {elapsed}", ProgressBar::new_spinner(), what)
    }

    /// The same for work whose results are lines on standard output. If that is a terminal too,
    /// nothing is shown: the two would mix.
    pub(crate) fn beside_lines(what: String) -> Self {
        if stdout().is_terminal() { Self(ProgressBar::hidden()) } else { Self::counting(what) }
    }

    fn with(template: &str, bar: ProgressBar, what: String) -> Self {
        // If indicatif refused the template, its default style would do.
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
