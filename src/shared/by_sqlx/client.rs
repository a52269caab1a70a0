//! The code for each version of `SQLx`. Values and rows go through tokio-postgres' types, so both
//! clients bind the same parameters and read the same columns.

use bytes::BytesMut;
use tokio_postgres::types::{IsNull as Null, ToSql, Type as Kind};

use super::checked;
use super::sqlx::encode::{Encode, IsNull};
use super::sqlx::error::{BoxDynError, Error};
use super::sqlx::postgres::types::Oid;
use super::sqlx::postgres::{
    PgArgumentBuffer, PgArguments, PgConnection, PgDatabaseError, PgRow, PgSeverity, PgTypeInfo,
    PgValueFormat, Postgres,
};
use super::sqlx::{Arguments, Connection, Row, Transaction, Type, ValueRef, query_with};
use crate::error::{FailureKind, StoreFailure};
use crate::shared::any_row::{AnyRow, Cells};
use crate::shared::by_sqlx::{Asking, OtherClient};
use crate::shared::columns::Params;
use crate::shared::open_tx::{HasTx, OpenTx, Tx};

impl OpenTx for PgConnection {}

impl HasTx for PgConnection {
    fn tx(&mut self) -> Tx<'_> {
        Tx::of(self)
    }
}

impl OpenTx for Transaction<'_, Postgres> {}

impl HasTx for Transaction<'_, Postgres> {
    fn tx(&mut self) -> Tx<'_> {
        (**self).tx()
    }
}

impl OtherClient for PgConnection {
    fn ask<'a>(&'a mut self, text: &'a str, params: &'a Params<'_>, is_kept: bool) -> Asking<'a> {
        Box::pin(async move {
            // By itself each statement would be committed at once, the result before the effect.
            if !self.is_in_transaction() {
                return Err(StoreFailure::new(FailureKind::Options, NO_TRANSACTION));
            }
            let arguments = arguments(params).map_err(|error| failure(&Error::Encode(error)))?;
            let query = query_with(checked(text), arguments).persistent(is_kept);
            let row = query.fetch_optional(self).await.map_err(|error| failure(&error))?;
            Ok(row.map(|row| AnyRow::Other(Box::new(row))))
        })
    }
}

const NO_TRANSACTION: &str =
    "the connection is in no transaction that SQLx has begun: call its `begin`, and pass the transaction";

/// A parameter, encoded as for tokio-postgres.
struct Param<'a>(&'a (dyn ToSql + Sync), Kind);

impl Type<Postgres> for Param<'_> {
    /// Each value says its own.
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Param<'_> {
    fn encode_by_ref(&self, out: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let mut bytes = BytesMut::new();
        let is_null = self.0.to_sql_checked(&self.1, &mut bytes)?;
        out.extend_from_slice(&bytes);
        Ok(match is_null {
            Null::Yes => IsNull::Yes,
            Null::No => IsNull::No,
        })
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.1.oid())))
    }
}

fn arguments(params: &Params<'_>) -> Result<PgArguments, BoxDynError> {
    let mut arguments = PgArguments::default();
    for (value, kind) in params.typed() {
        Arguments::add(&mut arguments, Param(value, kind))?;
    }
    Ok(arguments)
}

impl Cells for PgRow {
    fn cell(&self, at: usize) -> Result<(Kind, Option<&[u8]>), String> {
        let value = self.try_get_raw(at).map_err(|error| error.to_string())?;
        let kind = value.type_info().oid().and_then(|oid| Kind::from_oid(oid.0));
        let kind = kind.ok_or_else(|| format!("the type of column {at} is unknown"))?;
        if value.format() != PgValueFormat::Binary {
            return Err(format!("column {at} came as text"));
        }
        if value.is_null() {
            return Ok((kind, None));
        }
        Ok((kind, Some(value.as_bytes().map_err(|error| error.to_string())?)))
    }
}

fn failure(error: &Error) -> StoreFailure {
    let db = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    let Some(db) = db else {
        return StoreFailure::new(FailureKind::Unreachable, error.to_string());
    };
    let is_fatal = db.severity() != PgSeverity::Error;
    StoreFailure::of_server(db.code(), (db.message(), db.detail()), is_fatal)
}
