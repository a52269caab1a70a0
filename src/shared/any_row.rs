//! `AnyRow`: a row as a client of the caller's brings it. There is one way to read them all.

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
#[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
use tokio_postgres::types::Type;

/// A row of another client than tokio-postgres.
#[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
pub(super) trait Cells: Send + Sync {
    /// The type of a column and its bytes in the binary format, or what is wrong with it. `None` for null.
    fn cell(&self, at: usize) -> Result<(Type, Option<&[u8]>), String>;
}

/// A row of a client of the caller's.
pub(super) enum AnyRow {
    TokioPostgres(Row),
    #[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
    Other(Box<dyn Cells>),
}

/// The same by reference.
#[derive(Clone, Copy)]
pub(super) enum RowRef<'a> {
    TokioPostgres(&'a Row),
    #[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
    Other(&'a dyn Cells),
}

impl<'a> From<&'a Row> for RowRef<'a> {
    fn from(row: &'a Row) -> Self {
        Self::TokioPostgres(row)
    }
}

impl<'a> From<&'a AnyRow> for RowRef<'a> {
    fn from(row: &'a AnyRow) -> Self {
        match row {
            AnyRow::TokioPostgres(row) => Self::TokioPostgres(row),
            #[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
            AnyRow::Other(row) => Self::Other(&**row),
        }
    }
}

impl<'a> RowRef<'a> {
    /// The value of a column, or why it has none.
    pub(super) fn value<T: FromSql<'a>>(self, at: usize) -> Result<T, String> {
        match self {
            Self::TokioPostgres(row) => row.try_get(at).map_err(|error| error.to_string()),
            #[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
            Self::Other(row) => {
                let (kind, raw) = row.cell(at)?;
                if !T::accepts(&kind) {
                    return Err(format!("column {at} has the type {kind}"));
                }
                T::from_sql_nullable(&kind, raw).map_err(|error| format!("column {at}: {error}"))
            }
        }
    }
}
