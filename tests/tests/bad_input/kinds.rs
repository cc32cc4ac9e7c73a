//! The kinds of bad input, and what each is for a field of some type.

use attache_tests::raw::{Place, Tree, Value};
use prost_types::field_descriptor_proto::Type;

/// Stands in every text that is too long or malformed: it must be found in no answer and no log.
pub(crate) const CANARY: &str = "canary-3d0e57c2";
/// A number that no message has a field of.
const UNKNOWN_FIELD: u32 = 30_000;
/// An enum's number without a name.
const UNKNOWN_VALUE: u64 = 99;
/// Longer than any text may be that does not pass through.
const LONG_BYTES: usize = 10_000;
/// Longer than an attribute or a token may be.
const LONG_ENTRY_BYTES: usize = 20_000;
/// More than any list of ours may hold.
const MANY: usize = 600;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Missing,
    Empty,
    TooLong,
    /// The largest number of the type: within the type, and mostly beyond sense.
    Largest,
    WrongType,
    NotUtf8,
    Nul,
    Unknown,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Missing,
        Self::Empty,
        Self::TooLong,
        Self::Largest,
        Self::WrongType,
        Self::NotUtf8,
        Self::Nul,
        Self::Unknown,
    ];

    /// Bad messages of this kind, made from a good one; or why there are none for such a field.
    pub(crate) fn bend(self, place: &Place, good: &Tree) -> Result<Vec<Tree>, &'static str> {
        let values = self.values(place, &good.at(&place.path))?;
        let bent = values
            .into_iter()
            .map(|values| good.with(&place.path, values));
        Ok(bent.collect())
    }

    /// What stands in the field's place: a list of inputs, each the values of the field.
    fn values(self, place: &Place, good: &[Value]) -> Result<Vec<Vec<Value>>, &'static str> {
        let text = place.kind == Type::String;
        let delimited = text || matches!(place.kind, Type::Bytes | Type::Message);
        let one = |value: Value| Ok(vec![vec![value]]);
        let entry = |key: &[u8], value: &[u8]| {
            Value::Tree(Tree(vec![(1, Value::bytes(key)), (2, Value::bytes(value))]))
        };
        let put_in = |key: &[u8], value: &[u8]| Ok(vec![[good, &[entry(key, value)]].concat()]);
        match self {
            Self::Missing => Ok(vec![vec![]]),
            Self::Empty if place.map => put_in(b"", b""),
            Self::Empty if place.kind == Type::Message => one(Value::Tree(Tree::default())),
            Self::Empty if delimited => one(Value::bytes("")),
            Self::Empty => one(Value::Number(0)),
            Self::TooLong if place.map => {
                let many = (0..MANY)
                    .map(|i| entry(format!("name-{i}").as_bytes(), b"x"))
                    .collect();
                Ok(vec![
                    many,
                    [good, &[entry(b"container", &long(LONG_ENTRY_BYTES))]].concat(),
                ])
            }
            Self::TooLong if place.repeated => {
                let one = good.first().cloned().unwrap_or(Value::bytes("x"));
                let many = vec![one; MANY];
                let long = if place.kind == Type::Message {
                    vec![]
                } else {
                    vec![vec![Value::Bytes(long(LONG_BYTES))]]
                };
                Ok([vec![many], long].concat())
            }
            Self::TooLong => match place.kind {
                Type::Message => Err("a message is as long as its fields, which have rows"),
                Type::String | Type::Bytes => one(Value::Bytes(long(LONG_BYTES))),
                Type::Bool => one(Value::Number(2)),
                Type::Uint32 => one(Value::Number(1 << 32)),
                Type::Int32 | Type::Enum => one(Value::Number(1 << 31)),
                // Eleven bytes: 64 bits have ten.
                _ => one(Value::RawNumber([[0xff; 10].as_slice(), &[1]].concat())),
            },
            Self::Largest => match place.kind {
                Type::Uint32 => one(Value::Number(u32::MAX.into())),
                Type::Int64 => one(Value::Number(i64::MAX.cast_unsigned())),
                Type::Uint64 => one(Value::Number(u64::MAX)),
                Type::Bool | Type::Enum => Err("each of its values has a meaning"),
                _ => Err("it is no number"),
            },
            Self::WrongType if delimited => one(Value::Number(1)),
            Self::WrongType => one(Value::bytes(CANARY)),
            Self::NotUtf8 if place.map => {
                put_in(b"container", &[CANARY.as_bytes(), &[0xff]].concat())
            }
            Self::NotUtf8 if text => one(Value::Bytes([CANARY.as_bytes(), &[0xff]].concat())),
            Self::Nul if place.map => put_in(b"container", format!("{CANARY}\0").as_bytes()),
            Self::Nul if text => one(Value::bytes(format!("{CANARY}\0"))),
            Self::NotUtf8 | Self::Nul if delimited => {
                Err("it is no text: any byte may stand in it")
            }
            Self::NotUtf8 | Self::Nul => Err("it is a number"),
            Self::Unknown if place.map => put_in(b"contaner", CANARY.as_bytes()),
            Self::Unknown if place.kind == Type::Enum => one(Value::Number(UNKNOWN_VALUE)),
            Self::Unknown if place.kind == Type::Message => {
                let first = good
                    .first()
                    .cloned()
                    .unwrap_or(Value::Tree(Tree::default()));
                let Value::Tree(tree) = first else {
                    return Err("it is no message");
                };
                one(Value::Tree(unknown(&tree)))
            }
            Self::Unknown => Err("only messages, enums and maps have names that could be unknown"),
        }
    }
}

/// A message with a field that nobody knows.
pub(crate) fn unknown(good: &Tree) -> Tree {
    good.with(&[UNKNOWN_FIELD], vec![Value::bytes(CANARY)])
}

fn long(bytes: usize) -> Vec<u8> {
    CANARY.bytes().cycle().take(bytes).collect()
}
