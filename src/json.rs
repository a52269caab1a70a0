//! Results as JSON, where JSON can carry them.

use std::error::Error;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::ser::{self, Error as _, Serializer};

/// A value that JSON can't carry, or bytes that are not the JSON of a value.
#[derive(Debug)]
pub struct JsonError(serde_json::Error);

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for JsonError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// A value as JSON, and what it will be when it is read again.
pub(crate) fn encode<T: Serialize + DeserializeOwned>(value: &T) -> Result<(Vec<u8>, T), JsonError> {
    value.serialize(Check).map_err(JsonError)?;
    let bytes = serde_json::to_vec(value).map_err(JsonError)?;
    let read = decode(&bytes)?;
    Ok((bytes, read))
}

/// The value that these bytes are the JSON of.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    serde_json::from_slice(bytes).map_err(JsonError)
}

/// Goes through a value and refuses what JSON would quietly turn into something else. `serde_json` writes `null` for a
/// number that is none, and for what is in an option if that is nothing: both may be read again without an error.
struct Check;

/// What a value is in JSON, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Null,
    Other,
}

type Checked = Result<Shape, serde_json::Error>;

fn finite(is_finite: bool) -> Checked {
    if is_finite {
        Ok(Shape::Other)
    } else {
        Err(serde_json::Error::custom("JSON has no numbers that are infinite or not a number"))
    }
}

macro_rules! carried {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, _value: $type) -> Checked {
            Ok(Shape::Other)
        })*
    };
}

impl Serializer for Check {
    type Ok = Shape;
    type Error = serde_json::Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    carried! {
        serialize_bool: bool,
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128,
        serialize_char: char, serialize_str: &str, serialize_bytes: &[u8]
    }

    fn serialize_f32(self, value: f32) -> Checked {
        finite(value.is_finite())
    }

    fn serialize_f64(self, value: f64) -> Checked {
        finite(value.is_finite())
    }

    fn serialize_none(self) -> Checked {
        Ok(Shape::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Checked {
        match value.serialize(Self)? {
            Shape::Other => Ok(Shape::Other),
            Shape::Null => {
                Err(serde_json::Error::custom("JSON has no `Some` of nothing: it would be read as `None`"))
            }
        }
    }

    fn serialize_unit(self) -> Checked {
        Ok(Shape::Null)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Checked {
        Ok(Shape::Null)
    }

    fn serialize_unit_variant(self, _name: &'static str, _index: u32, _variant: &'static str) -> Checked {
        Ok(Shape::Other)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _name: &'static str, value: &T) -> Checked {
        value.serialize(Self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        value: &T,
    ) -> Checked {
        value.serialize(Self).map(|_inside| Shape::Other)
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Self, Self::Error> {
        Ok(self)
    }

    fn serialize_tuple(self, _len: usize) -> Result<Self, Self::Error> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _name: &'static str, _len: usize) -> Result<Self, Self::Error> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self, Self::Error> {
        Ok(self)
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Self, Self::Error> {
        Ok(self)
    }

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Self, Self::Error> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self, Self::Error> {
        Ok(self)
    }
}

/// All that has parts is checked part by part.
macro_rules! parts {
    ($($kind:ident::$method:ident($($name:ident: $type:ty)?)),*) => {
        $(impl ser::$kind for Check {
            type Ok = Shape;
            type Error = serde_json::Error;

            fn $method<T: Serialize + ?Sized>(
                &mut self,
                $($name: $type,)?
                value: &T,
            ) -> Result<(), Self::Error> {
                value.serialize(Self).map(|_part| ())
            }

            fn end(self) -> Checked {
                Ok(Shape::Other)
            }
        })*
    };
}

parts! {
    SerializeSeq::serialize_element(),
    SerializeTuple::serialize_element(),
    SerializeTupleStruct::serialize_field(),
    SerializeTupleVariant::serialize_field(),
    SerializeStruct::serialize_field(_name: &'static str),
    SerializeStructVariant::serialize_field(_name: &'static str)
}

impl ser::SerializeMap for Check {
    type Ok = Shape;
    type Error = serde_json::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Self::Error> {
        key.serialize(Self).map(|_key| ())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Self::Error> {
        value.serialize(Self).map(|_value| ())
    }

    fn end(self) -> Checked {
        Ok(Shape::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::{BTreeMap, HashMap};
    use std::fmt::Debug;

    #[track_caller]
    fn carries<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
        let (bytes, read) = encode(value).unwrap();
        assert_eq!(&read, value);
        assert_eq!(&decode::<T>(&bytes).unwrap(), value);
    }

    #[track_caller]
    fn refuses<T: Serialize + DeserializeOwned>(value: &T) {
        assert!(encode(value).is_err());
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Kinds {
        Unit,
        New(Option<u8>),
        Tuple(u8, String),
        Struct { nothing: (), some: Option<char> },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Pair(u8, f32);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Nothing;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct New<T>(T);

    #[test]
    fn what_json_can_carry_comes_back() {
        carries(&());
        carries(&None::<u8>);
        carries(&Some(New(7)));
        carries(&New(None::<u8>));
        carries(&(Kinds::Unit, Kinds::New(None), Kinds::Tuple(1, "\u{0}\u{fffd}\"".to_owned())));
        carries(&Some(Kinds::Struct { nothing: (), some: Some('x') }));
        carries(&Some(Kinds::New(None)));
        carries(&vec![Some(Pair(1, 0.1)), None]);
        carries(&(i64::MIN, u64::MAX, i128::MIN, u128::MAX));
        carries(&HashMap::from([(1, "a".to_owned()), (2, "b".to_owned())]));
        carries(&Some(Vec::<u8>::new()));
    }

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        for value in [0.1, -0.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, 9_007_199_254_740_993.0, 1.0e23] {
            carries(&value);
        }
        let mut bits = 1_u64;
        for _ in 0..10_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = f64::from_bits(bits);
            if value.is_finite() {
                assert_eq!(encode(&value).unwrap().1.to_bits(), bits);
            }
        }
    }

    #[test]
    fn what_json_would_alter_is_refused() {
        refuses(&f64::NAN);
        refuses(&f32::INFINITY);
        // Without the check these would be read as `None`, with no error.
        refuses(&Some(f64::NAN));
        refuses(&vec![Some(f64::NEG_INFINITY)]);
        refuses(&Some(None::<u8>));
        refuses(&Some(()));
        refuses(&Some(New(Nothing)));
        refuses(&BTreeMap::from([("a", Some(Some(())))].map(|(key, value)| (key.to_owned(), value))));
        refuses(&Deep::Inside { list: vec![(1, Some(()))] });
        refuses(&BTreeMap::from([((1, 2), 3)]));
        refuses(&BTreeMap::from([(vec![1], 3)]));
    }

    #[derive(Serialize, Deserialize)]
    enum Deep {
        Inside { list: Vec<(u8, Option<()>)> },
    }

    #[test]
    fn what_is_nested_too_deep_to_be_read_is_refused() {
        #[derive(Serialize, Deserialize)]
        struct Nested(Vec<Nested>);
        let mut nested = Nested(Vec::new());
        for _ in 0..200 {
            nested = Nested(vec![nested]);
        }
        refuses(&nested);
    }

    #[test]
    fn what_is_not_the_json_of_the_value_is_an_error_that_says_where() {
        let error = decode::<Vec<u8>>(b"[1, 2, 300]").unwrap_err();
        assert!(error.to_string().contains("column"), "{error}");
        assert!(decode::<u8>(b"1 2").is_err());
        assert!(decode::<u8>(b"").is_err());
    }
}
