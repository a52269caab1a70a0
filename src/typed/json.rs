//! Encodes results as JSON, and refuses results that JSON would alter.

use std::error::Error;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

mod trace;

use trace::{Difference, Trace};

/// A value that JSON can't represent, or bytes that are not the JSON of a value.
pub struct JsonError(Kind);

enum Kind {
    Json(serde_json::Error),
    /// The value's JSON decodes to another value.
    Altered(Difference),
}

impl JsonError {
    /// The part of the value that JSON would alter, such as `.items[..].price`; empty for the
    /// whole value. `None` for all other errors.
    #[must_use]
    pub fn altered_at(&self) -> Option<&str> {
        match &self.0 {
            Kind::Altered(difference) => Some(&difference.path),
            Kind::Json(_) => None,
        }
    }
}

impl fmt::Debug for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JsonError({self})")
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Json(error) => error.fmt(f),
            Kind::Altered(Difference { path, was, is }) => {
                let path = if path.is_empty() { "the value" } else { path };
                write!(f, "{path} is {was} and would come back as {is}")?;
                // The same kind of thing, so it is the content.
                if was == is { f.write_str(" with other contents") } else { Ok(()) }
            }
        }
    }
}

impl Error for JsonError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Kind::Json(error) => error.source(),
            Kind::Altered(_) => None,
        }
    }
}

fn json(error: serde_json::Error) -> JsonError {
    JsonError(Kind::Json(error))
}

/// A value as JSON, and the value that this JSON decodes to.
///
/// If serde shows a difference between the two, the value is refused: every caller gets the
/// operation's result, or none does.
pub(crate) fn encode<T: Serialize + DeserializeOwned>(value: &T) -> Result<(Vec<u8>, T), JsonError> {
    let given = Trace::of(value).map_err(json)?;
    let bytes = serde_json::to_vec(value).map_err(json)?;
    let read = decode(&bytes)?;
    match given.difference(Trace::of(&read).map_err(json)?) {
        None => Ok((bytes, read)),
        Some(difference) => Err(JsonError(Kind::Altered(difference))),
    }
}

/// The value that these bytes are the JSON of.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    serde_json::from_slice(bytes).map_err(json)
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
        carries(&(true, Some(false)));
        carries(&Bytes(vec![0, 7, 255]));
    }

    /// Bytes in serde's own form, which JSON has as a list of numbers.
    #[derive(Debug, PartialEq, Deserialize)]
    struct Bytes(Vec<u8>);

    impl Serialize for Bytes {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(&self.0)
        }
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
        refuses(&Deep::ActivityMark { list: vec![(1, Some(()))] });
        refuses(&BTreeMap::from([((1, 2), 3)]));
        refuses(&BTreeMap::from([(vec![1], 3)]));
    }

    #[derive(Serialize, Deserialize)]
    enum Deep {
        ActivityMark { list: Vec<(u8, Option<()>)> },
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

    #[track_caller]
    fn altered_at<T: Serialize + DeserializeOwned>(value: &T) -> (String, String) {
        let error = encode(value).err().unwrap();
        (error.altered_at().unwrap().to_owned(), error.to_string())
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Whole { amount: u32 },
        Part { amount: u32, of: u32 },
        Number(f64),
        Text(String),
        Time(New<String>),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        parts: Vec<Untagged>,
        #[serde(default = "ten", skip_serializing_if = "is_zero")]
        pieces: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
        #[serde(flatten)]
        more: HashMap<String, u8>,
    }

    fn ten() -> u32 {
        10
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
    fn is_zero(pieces: &u32) -> bool {
        *pieces == 0
    }

    fn order(parts: Vec<Untagged>, pieces: u32) -> Order {
        let more = (0..40).map(|number| (format!("more {number}"), number)).collect();
        Order { parts, pieces, note: None, more }
    }

    #[test]
    fn an_untagged_enum_that_comes_back_as_another_variant_is_refused_with_its_place() {
        carries(&order(
            vec![Untagged::Whole { amount: 1 }, Untagged::Number(1.5), Untagged::Text("x".into())],
            3,
        ));
        let part = order(vec![Untagged::Text("x".into()), Untagged::Part { amount: 1, of: 2 }], 3);
        let (path, says) = altered_at(&part);
        assert!(path.contains("parts") || path.contains("{..}"), "{path}");
        assert!(says.contains("would come back as"), "{says}");
        altered_at(&Untagged::Time(New("now".to_owned())));
        let (path, _) = altered_at(&Some(part));
        assert!(path.contains("parts") || path.contains("{..}"), "{path}");
    }

    /// Each is read as the first variant, whose value is of another kind.
    #[test]
    fn the_kind_of_a_value_that_would_be_altered_is_told_and_not_the_value() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(untagged)]
        enum Either {
            List(Vec<u8>),
            Bytes(Bytes),
            Kinds(Kinds),
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(untagged)]
        enum Named {
            Text(String),
            Kinds(Kinds),
        }
        let (_, says) = altered_at(&Either::Bytes(Bytes(vec![47, 11])));
        assert!(says.contains("2 bytes") && says.contains("a list of 2"), "{says}");
        let (_, says) = altered_at(&Named::Kinds(Kinds::Unit));
        assert!(says.contains("`Kinds::Unit`") && says.contains("text of 4 bytes"), "{says}");
    }

    #[test]
    fn a_struct_that_comes_back_as_another_one_with_the_same_fields_is_refused() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Paid {
            cents: u32,
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Refunded {
            cents: u32,
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(untagged)]
        enum Moved {
            In(Paid),
            Out(Refunded),
        }
        carries(&Moved::In(Paid { cents: 7 }));
        let (_, says) = altered_at(&Moved::Out(Refunded { cents: 7 }));
        assert!(says.contains("`Refunded`") && says.contains("`Paid`"), "{says}");
    }

    #[test]
    fn a_field_that_is_left_out_and_comes_back_with_a_default_is_refused() {
        carries(&order(Vec::new(), 1));
        altered_at(&order(Vec::new(), 0));
    }

    #[test]
    fn numbers_that_come_back_as_others_are_refused() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(untagged)]
        enum Number {
            Float(f64),
            Whole(u64),
        }
        #[derive(Serialize, Deserialize)]
        struct Deep {
            list: Vec<(u8, Number)>,
        }
        carries(&Number::Float(0.5));
        assert_eq!(altered_at(&Number::Whole(7)).1, "the value is u64 and would come back as f64");
        let (path, _) = altered_at(&Deep { list: vec![(1, Number::Whole(1 << 60))] });
        assert_eq!(path, ".list[..].1");
    }

    #[test]
    fn nested_options_say_where_they_are() {
        #[expect(clippy::option_option, reason = "that is what JSON can't tell apart")]
        #[derive(Serialize, Deserialize)]
        struct Outer {
            inner: Option<Option<u8>>,
        }
        let (path, says) = altered_at(&Outer { inner: Some(None) });
        assert_eq!((path.as_str(), says.contains("`Some` of `None`")), (".inner", true), "{says}");
        encode(&Outer { inner: Some(Some(1)) }).unwrap();
    }

    #[test]
    fn what_has_no_order_may_come_back_in_another() {
        use std::collections::HashSet;
        carries(&(0..100).collect::<HashSet<u32>>());
        carries(&(0..100).map(|number| (number, HashSet::from([number, 7]))).collect::<HashMap<u32, _>>());
        carries(&vec![3, 1, 2]);
    }

    #[test]
    fn a_key_that_comes_twice_is_refused() {
        /// Entries, some of them with the same key.
        struct Twice(Vec<(String, u8)>);
        impl Serialize for Twice {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
            }
        }
        impl<'de> Deserialize<'de> for Twice {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                HashMap::<String, u8>::deserialize(deserializer)
                    .map(|entries| Self(entries.into_iter().collect()))
            }
        }
        encode(&Twice(vec![("a".to_owned(), 1), ("b".to_owned(), 2)])).unwrap();
        let (_, says) = altered_at(&Twice(vec![("a".to_owned(), 1), ("a".to_owned(), 2)]));
        assert_eq!(says, "the value is a map of 2 and would come back as a map of 1");
    }

    /// Differences that can't be found, as the documentation of `Scope::run` says.
    #[test]
    fn a_field_that_both_sides_leave_out_is_lost_without_a_word() {
        #[derive(Serialize, Deserialize)]
        struct Forgets {
            #[serde(skip)]
            secret: u32,
        }
        assert_eq!(encode(&Forgets { secret: 7 }).unwrap().1.secret, 0);
    }
}
