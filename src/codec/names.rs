//! Names of scopes and keys inside rows.

use super::bad_bytes::BadBytes;
use crate::key::NAME_MAX;

pub(crate) fn check_names(scope: &[u8], key: &[u8]) -> Result<(), BadBytes> {
    if key.is_empty() || key.len() > NAME_MAX || scope.len() > NAME_MAX {
        return Err(BadBytes(format!("a scope of {} and a key of {} bytes", scope.len(), key.len())));
    }
    Ok(())
}
