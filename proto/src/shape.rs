//! The shape of each message, taken from the descriptors, and the walk that holds bytes against it. Pure.
//!
//! The walk goes as deep as the bytes nest within the descriptors, where no message contains itself. Of values it reads
//! text alone, to demand UTF-8, and no fault holds a byte of what was read.

use std::collections::HashMap;

use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// The shapes of all messages of a descriptor set.
pub(crate) struct Shapes {
    shapes: Vec<Shape>,
    /// What callers send, by full name.
    requests: HashMap<String, usize>,
}

struct Shape {
    /// Sorted by number.
    fields: Vec<Field>,
}

struct Field {
    number: u32,
    name: String,
    kind: Kind,
    /// Numbers that are repeated may also come packed.
    packable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flag,
    Signed32,
    Unsigned32,
    /// 64 bits, which every varint has.
    Number,
    Fixed64,
    Fixed32,
    Text,
    Bytes,
    Message(usize),
}

/// What is wrong with the bytes of a message, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The names on the way to the field, innermost first; none for the message itself.
    path: Vec<String>,
    problem: Problem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("is cut short; send the whole message")]
    Cut,
    #[error("has bytes that are no protobuf; encode it by the .proto files of this release")]
    Key,
    #[error("is of another type than declared; encode it by the .proto files of this release")]
    WireType,
    #[error("is a number outside of its type; encode it by the .proto files of this release")]
    Range,
    #[error("is not UTF-8; send text")]
    NotUtf8,
    #[error(
        "has a field {0} that is not known here: its sender is of a newer release; upgrade the broker first"
    )]
    Unknown(u32),
}

impl Fault {
    /// The field with dots, or the message's name.
    pub(crate) fn place(&self, message: &str) -> String {
        let names: Vec<&str> = self.path.iter().rev().map(String::as_str).collect();
        if names.is_empty() {
            message.to_owned()
        } else {
            names.join(".")
        }
    }

    /// What is wrong, and the mend.
    pub(crate) fn problem(&self) -> String {
        self.problem.to_string()
    }

    fn within(mut self, field: &Field) -> Self {
        self.path.push(field.name.clone());
        self
    }
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        let path = Vec::new();
        Self { path, problem }
    }
}

impl Shapes {
    /// Takes the shapes of a descriptor set.
    pub(crate) fn of(set: &FileDescriptorSet) -> Self {
        let mut messages = Vec::new();
        for file in &set.file {
            let package = format!(".{}", file.package());
            let top = file.message_type.iter();
            top.for_each(|message| collect(&package, message, &mut messages));
        }
        let index: HashMap<&str, usize> = messages
            .iter()
            .enumerate()
            .map(|(at, (name, _))| (name.as_str(), at))
            .collect();
        let shapes = messages.iter().map(|(_, message)| Shape {
            fields: fields(message, &index),
        });
        let methods = set
            .file
            .iter()
            .flat_map(|file| &file.service)
            .flat_map(|service| &service.method);
        let requests = methods.filter_map(|method| {
            let at = index.get(method.input_type())?;
            Some((method.input_type().trim_start_matches('.').to_owned(), *at))
        });
        Self {
            shapes: shapes.collect(),
            requests: requests.collect(),
        }
    }

    /// The shape of what callers send under this full name; none for what only answers have.
    pub(crate) fn request(&self, full_name: &str) -> Option<usize> {
        self.requests.get(full_name).copied()
    }

    /// Holds bytes against a shape; with `strict` no field may be unknown.
    pub(crate) fn walk(&self, shape: usize, mut bytes: &[u8], strict: bool) -> Result<(), Fault> {
        let Some(shape) = self.shapes.get(shape) else {
            return Ok(());
        };
        while !bytes.is_empty() {
            let key = varint(&mut bytes).ok_or(Problem::Key)?;
            let number = u32::try_from(key >> 3).map_err(|_| Problem::Key)?;
            let found = shape
                .fields
                .binary_search_by_key(&number, |field| field.number);
            let field = found.ok().and_then(|at| shape.fields.get(at));
            let wire = key & 7;
            let named = |problem: Problem| {
                let fault = Fault::from(problem);
                field.map_or(fault.clone(), |field| fault.within(field))
            };
            let value = value(wire, &mut bytes).map_err(named)?;
            match field {
                None if strict => return Err(Problem::Unknown(number).into()),
                None => {}
                Some(field) => self
                    .hold(field, wire, &value, strict)
                    .map_err(|fault| fault.within(field))?,
            }
        }
        Ok(())
    }

    fn hold(&self, field: &Field, wire: u64, value: &Value<'_>, strict: bool) -> Result<(), Fault> {
        let declared = match field.kind {
            Kind::Flag | Kind::Signed32 | Kind::Unsigned32 | Kind::Number => 0,
            Kind::Fixed64 => 1,
            Kind::Text | Kind::Bytes | Kind::Message(_) => 2,
            Kind::Fixed32 => 5,
        };
        if wire != declared && !(wire == 2 && field.packable) {
            return Err(Problem::WireType.into());
        }
        let fits = match (field.kind, value) {
            (Kind::Message(shape), Value::Bytes(bytes)) => return self.walk(shape, bytes, strict),
            (Kind::Text, Value::Bytes(bytes)) if std::str::from_utf8(bytes).is_err() => {
                return Err(Problem::NotUtf8.into());
            }
            // A decoder would cut these to their type: 2^32 would be 0.
            (Kind::Flag, Value::Number(number)) => *number <= 1,
            (Kind::Unsigned32, Value::Number(number)) => u32::try_from(*number).is_ok(),
            (Kind::Signed32, Value::Number(number)) => i32::try_from(number.cast_signed()).is_ok(),
            _ => true,
        };
        if fits {
            Ok(())
        } else {
            Err(Problem::Range.into())
        }
    }
}

/// A message and those in it, each with its full name.
fn collect<'d>(
    prefix: &str,
    message: &'d DescriptorProto,
    out: &mut Vec<(String, &'d DescriptorProto)>,
) {
    let name = format!("{prefix}.{}", message.name());
    let nested = message.nested_type.iter();
    nested.for_each(|inner| collect(&name, inner, out));
    out.push((name, message));
}

fn fields(message: &DescriptorProto, index: &HashMap<&str, usize>) -> Vec<Field> {
    let mut fields: Vec<Field> = message
        .field
        .iter()
        .map(|field| {
            let kind = kind(field, index);
            let text = matches!(kind, Kind::Text | Kind::Bytes | Kind::Message(_));
            Field {
                number: u32::try_from(field.number()).unwrap_or_default(),
                name: field.name().to_owned(),
                kind,
                packable: field.label() == Label::Repeated && !text,
            }
        })
        .collect();
    fields.sort_unstable_by_key(|field| field.number);
    fields
}

fn kind(field: &FieldDescriptorProto, index: &HashMap<&str, usize>) -> Kind {
    match field.r#type() {
        Type::String => Kind::Text,
        Type::Bytes => Kind::Bytes,
        Type::Message | Type::Group => index
            .get(field.type_name())
            .map_or(Kind::Bytes, |shape| Kind::Message(*shape)),
        Type::Double | Type::Fixed64 | Type::Sfixed64 => Kind::Fixed64,
        Type::Float | Type::Fixed32 | Type::Sfixed32 => Kind::Fixed32,
        Type::Bool => Kind::Flag,
        Type::Int32 | Type::Enum => Kind::Signed32,
        Type::Uint32 | Type::Sint32 => Kind::Unsigned32,
        Type::Int64 | Type::Uint64 | Type::Sint64 => Kind::Number,
    }
}

/// One value as it lies on the wire.
enum Value<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

/// Takes one value of a wire type.
fn value<'b>(wire: u64, bytes: &mut &'b [u8]) -> Result<Value<'b>, Problem> {
    let fixed = |bytes: &mut &'b [u8], length: usize| {
        let (value, rest) = bytes.split_at_checked(length).ok_or(Problem::Cut)?;
        *bytes = rest;
        Ok(Value::Bytes(value))
    };
    match wire {
        0 => varint(bytes).map(Value::Number).ok_or(Problem::Key),
        1 => fixed(bytes, 8),
        2 => {
            let length = varint(bytes).ok_or(Problem::Key)?;
            fixed(bytes, usize::try_from(length).unwrap_or(usize::MAX))
        }
        5 => fixed(bytes, 4),
        // Groups, which proto3 has not, and numbers that are no wire type.
        _ => Err(Problem::Key),
    }
}

/// Takes a varint of at most ten bytes.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
