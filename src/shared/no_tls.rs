//! `Tls` in a build without TLS.

use tokio_postgres::NoTls;

use super::address::{Address, Mode};

pub(super) type Tls = NoTls;

/// What secures connections to this address.
pub(super) fn for_address(address: &Address) -> Result<Tls, String> {
    if address.mode > Mode::Prefer {
        return Err("the connection is to be secured with TLS, and this program was built without it: add the feature \
                    `postgres-tls`, or say `sslmode=disable` in the address if nobody can be on the way"
            .to_owned());
    }
    Ok(NoTls)
}
