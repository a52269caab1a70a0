//! Names of scopes and keys inside rows.

use super::bad_bytes::BadBytes;

/// Longest scope or key that any options allow.
pub(crate) const NAME_MAX: usize = 4_096;

pub(crate) fn check_names(scope: &[u8], key: &[u8]) -> Result<(), BadBytes> {
    if key.is_empty() || key.len() > NAME_MAX || scope.len() > NAME_MAX {
        return Err(BadBytes(format!("a scope of {} and a key of {} bytes", scope.len(), key.len())));
    }
    Ok(())
}
