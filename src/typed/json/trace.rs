//! A trace of a value's serde calls, to see whether JSON gave the value back unaltered.
//!
//! Two values of one type count as the same if they make the same serde calls: the same numbers of
//! the same types, the same names of structs, fields and variants, the same lengths. The order of
//! maps and lists does not count, because a `HashSet` is written as a list and has no order.

use std::fmt;

use serde::Serialize;
use serde::ser::{self, Error as _, Serializer};

type Failed = serde_json::Error;

/// The serde calls of a value.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trace {
    /// A value without parts: its type, and its bits.
    Scalar(&'static str, u128),
    Text(String),
    Bytes(Vec<u8>),
    None,
    Some(Box<Self>),
    Unit,
    List(Vec<Self>),
    Map(Vec<(Self, Self)>),
    /// A struct or a variant by its names, with its fields. Those of a tuple have no names.
    Named(Name, Vec<(&'static str, Self)>),
}

/// The name of a type, and of its variant where it has some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(&'static str, Option<&'static str>);

/// Where two traces differ.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) path: String,
    pub(super) was: String,
    pub(super) is: String,
}

impl Trace {
    pub(super) fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, Failed> {
        value.serialize(Tracer)
    }

    /// The place where another value differs from this one, if it does.
    pub(super) fn difference(mut self, mut other: Self) -> Option<Difference> {
        if self == other {
            return None;
        }
        self.sort();
        other.sort();
        let mut path = String::new();
        let (was, is) = self.find(&other, &mut path)?;
        Some(Difference { path, was, is })
    }

    /// Sorts everything that has no order.
    fn sort(&mut self) {
        match self {
            Self::List(parts) => {
                parts.iter_mut().for_each(Self::sort);
                parts.sort_unstable();
            }
            Self::Map(entries) => {
                for (_, value) in entries.iter_mut() {
                    value.sort();
                }
                entries.sort_unstable();
            }
            Self::Named(_, fields) => fields.iter_mut().for_each(|(_, field)| field.sort()),
            Self::Some(inside) => inside.sort(),
            Self::Scalar(..) | Self::Text(_) | Self::Bytes(_) | Self::None | Self::Unit => {}
        }
    }

    /// The kinds of both values where they differ, and the path to that place.
    fn find(&self, other: &Self, path: &mut String) -> Option<(String, String)> {
        let before = path.len();
        let found = match (self, other) {
            (Self::Some(was), Self::Some(is)) => was.find(is, path),
            (Self::List(was), Self::List(is)) if was.len() == is.len() => {
                path.push_str("[..]");
                was.iter().zip(is).find_map(|(was, is)| was.find(is, path))
            }
            (Self::Map(was), Self::Map(is))
                if was.iter().map(|(key, _)| key).eq(is.iter().map(|(key, _)| key)) =>
            {
                path.push_str("{..}");
                was.iter().zip(is).find_map(|((_, was), (_, is))| was.find(is, path))
            }
            (Self::Named(a, was), Self::Named(b, is)) if a == b && names(was).eq(names(is)) => {
                was.iter().zip(is).enumerate().find_map(|(at, ((name, was), (_, is)))| {
                    let len = path.len();
                    path.push('.');
                    path.push_str(if name.is_empty() {
                        DIGITS.get(at).copied().unwrap_or("_")
                    } else {
                        name
                    });
                    let found = was.find(is, path);
                    if found.is_none() {
                        path.truncate(len);
                    }
                    found
                })
            }
            _ if self == other => None,
            _ => return Some((self.to_string(), other.to_string())),
        };
        if found.is_none() {
            path.truncate(before);
        }
        found
    }
}

const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

fn names<'a>(fields: &'a [(&'static str, Trace)]) -> impl Iterator<Item = &'static str> + 'a {
    fields.iter().map(|(name, _)| *name)
}

/// The kind of a value, not the value itself, because errors end up in logs.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(kind, _) => write!(f, "{kind}"),
            Self::Text(text) => write!(f, "text of {} bytes", text.len()),
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::None => f.write_str("`None`"),
            Self::Some(inside) => write!(f, "`Some` of {inside}"),
            Self::Unit => f.write_str("nothing"),
            Self::List(parts) => write!(f, "a list of {}", parts.len()),
            Self::Map(entries) => write!(f, "a map of {}", entries.len()),
            Self::Named(Name(name, None), fields) => write!(f, "`{name}` with {} fields", fields.len()),
            Self::Named(Name(name, Some(variant)), _) => write!(f, "`{name}::{variant}`"),
        }
    }
}

struct Tracer;

macro_rules! integers {
    ($($method:ident: $type:ident),*) => {
        $(fn $method(self, value: $type) -> Result<Trace, Failed> {
            // Bits, not a number: they are only compared with others of the same type.
            let mut bits = [0; 16];
            bits.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
            Ok(Trace::Scalar(stringify!($type), u128::from_le_bytes(bits)))
        })*
    };
}

fn float(kind: &'static str, bits: u64, is_finite: bool) -> Result<Trace, Failed> {
    if is_finite {
        Ok(Trace::Scalar(kind, u128::from(bits)))
    } else {
        Err(Failed::custom("JSON has no numbers that are infinite or not a number"))
    }
}

impl Serializer for Tracer {
    type Ok = Trace;
    type Error = Failed;
    type SerializeSeq = Parts;
    type SerializeTuple = Fields;
    type SerializeTupleStruct = Fields;
    type SerializeTupleVariant = Fields;
    type SerializeMap = Entries;
    type SerializeStruct = Fields;
    type SerializeStructVariant = Fields;

    integers! {
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128
    }

    fn serialize_bool(self, value: bool) -> Result<Trace, Failed> {
        Ok(Trace::Scalar("bool", u128::from(value)))
    }

    fn serialize_char(self, value: char) -> Result<Trace, Failed> {
        Ok(Trace::Scalar("char", u128::from(u32::from(value))))
    }

    fn serialize_f32(self, value: f32) -> Result<Trace, Failed> {
        float("f32", u64::from(value.to_bits()), value.is_finite())
    }

    fn serialize_f64(self, value: f64) -> Result<Trace, Failed> {
        float("f64", value.to_bits(), value.is_finite())
    }

    fn serialize_str(self, value: &str) -> Result<Trace, Failed> {
        Ok(Trace::Text(value.to_owned()))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Trace, Failed> {
        Ok(Trace::Bytes(value.to_owned()))
    }

    fn serialize_none(self) -> Result<Trace, Failed> {
        Ok(Trace::None)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Trace, Failed> {
        Ok(Trace::Some(Box::new(Trace::of(value)?)))
    }

    fn serialize_unit(self) -> Result<Trace, Failed> {
        Ok(Trace::Unit)
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<Trace, Failed> {
        Ok(Trace::Named(Name(name, None), Vec::new()))
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        _at: u32,
        variant: &'static str,
    ) -> Result<Trace, Failed> {
        Ok(Trace::Named(Name(name, Some(variant)), Vec::new()))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<Trace, Failed> {
        Ok(Trace::Named(Name(name, None), vec![("", Trace::of(value)?)]))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _at: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Trace, Failed> {
        Ok(Trace::Named(Name(name, Some(variant)), vec![("", Trace::of(value)?)]))
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Parts, Failed> {
        Ok(Parts(Vec::new()))
    }

    fn serialize_tuple(self, _len: usize) -> Result<Fields, Failed> {
        Ok(Fields(Name("(..)", None), Vec::new()))
    }

    fn serialize_tuple_struct(self, name: &'static str, _len: usize) -> Result<Fields, Failed> {
        Ok(Fields(Name(name, None), Vec::new()))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _at: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Fields, Failed> {
        Ok(Fields(Name(name, Some(variant)), Vec::new()))
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Entries, Failed> {
        Ok(Entries(Vec::new(), None))
    }

    fn serialize_struct(self, name: &'static str, _len: usize) -> Result<Fields, Failed> {
        Ok(Fields(Name(name, None), Vec::new()))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _at: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Fields, Failed> {
        Ok(Fields(Name(name, Some(variant)), Vec::new()))
    }
}

struct Parts(Vec<Trace>);

impl ser::SerializeSeq for Parts {
    type Ok = Trace;
    type Error = Failed;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        self.0.push(Trace::of(value)?);
        Ok(())
    }

    fn end(self) -> Result<Trace, Failed> {
        Ok(Trace::List(self.0))
    }
}

struct Fields(Name, Vec<(&'static str, Trace)>);

macro_rules! fields {
    ($($kind:ident::$method:ident($($name:ident)?)),*) => {
        $(impl ser::$kind for Fields {
            type Ok = Trace;
            type Error = Failed;

            fn $method<T: Serialize + ?Sized>(
                &mut self,
                $($name: &'static str,)?
                value: &T,
            ) -> Result<(), Failed> {
                let name = "";
                $(let name = if name.is_empty() { $name } else { name };)?
                self.1.push((name, Trace::of(value)?));
                Ok(())
            }

            fn end(self) -> Result<Trace, Failed> {
                Ok(Trace::Named(self.0, self.1))
            }
        })*
    };
}

fields! {
    SerializeTuple::serialize_element(),
    SerializeTupleStruct::serialize_field(),
    SerializeTupleVariant::serialize_field(),
    SerializeStruct::serialize_field(key),
    SerializeStructVariant::serialize_field(key)
}

/// Entries, and the key of the next one.
struct Entries(Vec<(Trace, Trace)>, Option<Trace>);

impl ser::SerializeMap for Entries {
    type Ok = Trace;
    type Error = Failed;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Failed> {
        self.1 = Some(Trace::of(key)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        let key = self.1.take().ok_or_else(|| Failed::custom("a value of a map has no key"))?;
        self.0.push((key, Trace::of(value)?));
        Ok(())
    }

    fn end(self) -> Result<Trace, Failed> {
        Ok(Trace::Map(self.0))
    }
}
