//! The names of an attempt's scope and key.

/// Names of up to so many bytes lie in the attempt itself, which saves an allocation: a UUID, and
/// a scope of 26 bytes.
const SHORT_MAX: usize = 62;

/// Scope, then key.
pub(super) struct Names {
    bytes: Bytes,
    scope_len: usize,
}

enum Bytes {
    Short([u8; SHORT_MAX], u8),
    Long(Box<[u8]>),
}

impl Names {
    pub(super) fn new(scope: &[u8], key: &[u8]) -> Self {
        let mut short = [0; SHORT_MAX];
        let Some((to_scope, rest)) = short.split_at_mut_checked(scope.len()) else {
            return Self::long(scope, key);
        };
        let Some(to_key) = rest.get_mut(..key.len()) else { return Self::long(scope, key) };
        to_scope.copy_from_slice(scope);
        to_key.copy_from_slice(key);
        let len = u8::try_from(scope.len() + key.len()).unwrap_or_else(|_| unreachable!("they are short"));
        Self { bytes: Bytes::Short(short, len), scope_len: scope.len() }
    }

    fn long(scope: &[u8], key: &[u8]) -> Self {
        Self { bytes: Bytes::Long([scope, key].concat().into()), scope_len: scope.len() }
    }

    /// Scope and key.
    pub(super) fn split(&self) -> (&[u8], &[u8]) {
        let names = match &self.bytes {
            Bytes::Short(bytes, len) => bytes.split_at(usize::from(*len)).0,
            Bytes::Long(bytes) => bytes,
        };
        names.split_at(self.scope_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_whether_they_are_short_or_long() {
        for scope_len in [0, 1, SHORT_MAX - 1, SHORT_MAX, SHORT_MAX + 1, 4_096] {
            for key_len in [0, 1, SHORT_MAX - 1, SHORT_MAX, SHORT_MAX + 1, 4_096] {
                let (scope, key) = (vec![b's'; scope_len], vec![b'k'; key_len]);
                let names = Names::new(&scope, &key);
                assert_eq!(names.split(), (&*scope, &*key));
                let is_short = matches!(names.bytes, Bytes::Short(..));
                assert_eq!(is_short, scope_len + key_len <= SHORT_MAX, "{scope_len} and {key_len} bytes");
            }
        }
    }
}
