//! An option out of range.

use std::error::Error;
use std::fmt;

/// An option with a value outside its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionError {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) allowed: String,
}

impl OptionError {
    /// The option's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn new(name: &'static str, value: impl fmt::Debug, allowed: &str) -> Self {
        Self { name, value: format!("{value:?}"), allowed: allowed.to_owned() }
    }

    pub(crate) fn unless_within<T: PartialOrd + Copy + fmt::Debug>(
        name: &'static str,
        value: T,
        min: T,
        max: T,
    ) -> Result<(), Self> {
        if value >= min && value <= max {
            return Ok(());
        }
        Err(Self::new(name, value, &format!("{min:?} to {max:?}")))
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "option `{}` is {}; allowed is {}", self.name, self.value, self.allowed)
    }
}

impl Error for OptionError {}
