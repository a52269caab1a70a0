//! Values and arrays as the protocol has them.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use super::sql::Shape;

/// 128 bits in a column of type `uuid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(pub(super) u128);

impl ToSql for Id {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::UUID
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Id {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(u128::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::UUID
    }
}

/// The parameters of a statement, each with its type.
pub(super) struct Params<'a> {
    shape: Shape,
    params: Vec<(Box<dyn ToSql + Sync + Send + 'a>, Type)>,
}

/// Arrays.
impl Default for Params<'_> {
    fn default() -> Self {
        Self::of(Shape::Many)
    }
}

impl<'a> Params<'a> {
    /// Of a statement for calls of this shape.
    pub(super) fn of(shape: Shape) -> Self {
        Self { shape, params: Vec::new() }
    }

    pub(super) fn with(mut self, value: impl ToSql + Sync + Send + 'a, kind: Type) -> Self {
        self.params.push((Box::new(value), kind));
        self
    }

    /// One value of each call: an array, or the value of the only one.
    fn column<T: ToSql + Sync + Send + 'a>(
        self,
        mut values: impl Iterator<Item = T>,
        (one, many): (Type, Type),
    ) -> Self {
        match self.shape {
            Shape::One => self.with(values.next(), one),
            Shape::Many => self.with(values.collect::<Vec<_>>(), many),
        }
    }

    /// As the client takes them for a statement that was prepared.
    pub(super) fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.params.iter().map(|(value, _)| -> &(dyn ToSql + Sync) { &**value }).collect()
    }

    /// As the client takes them for a statement that was not.
    pub(super) fn typed(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.values().into_iter().zip(self.types()).collect()
    }

    pub(super) fn types(&self) -> Vec<Type> {
        self.params.iter().map(|(_, kind)| kind.clone()).collect()
    }

    pub(super) fn ids(self, values: impl Iterator<Item = u128>) -> Self {
        self.column(values.map(Id), (Type::UUID, Type::UUID_ARRAY))
    }

    pub(super) fn numbers(self, values: impl Iterator<Item = Option<i64>>) -> Self {
        self.column(values, (Type::INT8, Type::INT8_ARRAY))
    }

    pub(super) fn ints(self, values: impl Iterator<Item = Option<i32>>) -> Self {
        self.column(values, (Type::INT4, Type::INT4_ARRAY))
    }

    pub(super) fn smalls(self, values: impl Iterator<Item = Option<i16>>) -> Self {
        self.column(values, (Type::INT2, Type::INT2_ARRAY))
    }

    pub(super) fn bools(self, values: impl Iterator<Item = bool>) -> Self {
        self.column(values, (Type::BOOL, Type::BOOL_ARRAY))
    }

    pub(super) fn bytes(self, values: impl Iterator<Item = Option<&'a [u8]>>) -> Self {
        self.column(values, (Type::BYTEA, Type::BYTEA_ARRAY))
    }
}

/// A count or a time as the store has it.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
