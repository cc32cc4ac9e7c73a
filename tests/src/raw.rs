//! Messages as they lie on the wire, bent where no program of ours would bend them: the descriptors that
//! `attache-proto` was built from, trees of fields, and calls that carry bytes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use attache_proto::DESCRIPTORS;
use bytes::{Buf, BufMut};
use prost::{
    Message,
    encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint},
};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use tonic::{
    Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

/// The services of some packages, and every message.
pub struct Types {
    messages: BTreeMap<String, DescriptorProto>,
    /// What can be called.
    pub methods: Vec<Method>,
}

/// One RPC.
#[derive(Debug, Clone)]
pub struct Method {
    /// `attache.v1.Grants`.
    pub service: String,
    /// `AddGrant`.
    pub name: String,
    /// `.attache.v1.AddGrantRequest`.
    pub input: String,
}

/// One field of what an RPC takes, at any depth.
#[derive(Debug, Clone)]
pub struct Place {
    /// The numbers on the way to it; the last is its own.
    pub path: Vec<u32>,
    /// The names on the way to it, with dots.
    pub dotted: String,
    /// `Mutation.request_id`: the message that declares it, and its name there.
    pub row: String,
    /// Its type; that of one element when it is repeated.
    pub kind: Type,
    /// Whether it may stand there more than once.
    pub repeated: bool,
    /// Whether it is a map of text to text.
    pub map: bool,
}

impl Types {
    /// Reads the descriptors; `packages` are those whose methods are listed.
    ///
    /// # Errors
    /// When the descriptors do not decode.
    pub fn of(packages: &[&str]) -> Result<Self> {
        let set = FileDescriptorSet::decode(DESCRIPTORS)?;
        let mut types = Self {
            messages: BTreeMap::new(),
            methods: Vec::new(),
        };
        for file in set.file {
            let prefix = format!(".{}", file.package());
            for message in &file.message_type {
                types.add(&prefix, message);
            }
            if !packages.contains(&file.package()) {
                continue;
            }
            for service in &file.service {
                types
                    .methods
                    .extend(service.method.iter().map(|method| Method {
                        service: format!("{}.{}", file.package(), service.name()),
                        name: method.name().to_owned(),
                        input: method.input_type().to_owned(),
                    }));
            }
        }
        Ok(types)
    }

    fn add(&mut self, prefix: &str, message: &DescriptorProto) {
        let name = format!("{prefix}.{}", message.name());
        for nested in &message.nested_type {
            self.add(&name, nested);
        }
        self.messages.insert(name, message.clone());
    }

    /// Every field of a message and of the messages in it. No message of ours contains itself.
    #[must_use]
    pub fn places(&self, message: &str) -> Vec<Place> {
        let mut places = Vec::new();
        self.descend(message, &[], "", &mut places);
        places
    }

    fn descend(&self, message: &str, path: &[u32], dotted: &str, out: &mut Vec<Place>) {
        let Some(descriptor) = self.messages.get(message) else {
            return;
        };
        for field in &descriptor.field {
            let mut path = path.to_vec();
            path.push(number(field));
            let dotted = match dotted {
                "" => field.name().to_owned(),
                outer => format!("{outer}.{}", field.name()),
            };
            let map = self.is_map(field);
            if field.r#type() == Type::Message && !map {
                self.descend(field.type_name(), &path, &dotted, out);
            }
            out.push(Place {
                row: format!("{}.{}", descriptor.name(), field.name()),
                kind: field.r#type(),
                repeated: field.label() == Label::Repeated && !map,
                map,
                path,
                dotted,
            });
        }
    }

    fn is_map(&self, field: &FieldDescriptorProto) -> bool {
        let message = self.messages.get(field.type_name());
        message.is_some_and(|m| m.options.as_ref().is_some_and(|o| o.map_entry()))
    }

    /// Takes the bytes of a message apart.
    ///
    /// # Errors
    /// When they are not of that message.
    pub fn parse(&self, message: &str, mut bytes: &[u8]) -> Result<Tree> {
        let descriptor = self.messages.get(message).context("a message")?;
        let mut tree = Tree::default();
        while bytes.has_remaining() {
            let (tag, wire) = decode_key(&mut bytes)?;
            let field = descriptor
                .field
                .iter()
                .find(|field| number(field) == tag)
                .context("a field")?;
            let value = if wire == WireType::Varint {
                Value::Number(decode_varint(&mut bytes)?)
            } else {
                ensure!(
                    wire == WireType::LengthDelimited,
                    "a wire type that we do not use"
                );
                let length = usize::try_from(decode_varint(&mut bytes)?)?;
                let (inner, rest) = bytes.split_at_checked(length).context("a whole field")?;
                bytes = rest;
                if field.r#type() == Type::Message {
                    Value::Tree(self.parse(field.type_name(), inner)?)
                } else {
                    Value::Bytes(inner.to_vec())
                }
            };
            tree.0.push((tag, value));
        }
        Ok(tree)
    }
}

fn number(field: &FieldDescriptorProto) -> u32 {
    u32::try_from(field.number()).unwrap_or_default()
}

/// A message as the list of its fields.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tree(pub Vec<(u32, Value)>);

/// The value of a field.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A varint.
    Number(u64),
    /// The bytes of a varint, whatever they are.
    RawNumber(Vec<u8>),
    /// Text or bytes.
    Bytes(Vec<u8>),
    /// A message.
    Tree(Tree),
}

impl Value {
    /// Text or bytes.
    #[must_use]
    pub fn bytes(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bytes(bytes.as_ref().to_vec())
    }

    fn tree(&self) -> Option<&Tree> {
        if let Self::Tree(tree) = self {
            Some(tree)
        } else {
            None
        }
    }

    fn tree_mut(&mut self) -> Option<&mut Tree> {
        if let Self::Tree(tree) = self {
            Some(tree)
        } else {
            None
        }
    }
}

impl Tree {
    /// The message with the field at `path` replaced by `values`; what is missing on the way is put in.
    #[must_use]
    pub fn with(&self, path: &[u32], values: Vec<Value>) -> Self {
        let mut changed = self.clone();
        changed.put(path, values);
        changed
    }

    fn put(&mut self, path: &[u32], values: Vec<Value>) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        if rest.is_empty() {
            self.0.retain(|(tag, _)| tag != first);
            self.0
                .extend(values.into_iter().map(|value| (*first, value)));
            return;
        }
        let inner = self
            .0
            .iter_mut()
            .find(|(tag, value)| tag == first && value.tree().is_some());
        match inner.and_then(|(_, value)| value.tree_mut()) {
            Some(tree) => tree.put(rest, values),
            None => {
                let mut tree = Self::default();
                tree.put(rest, values);
                self.0.push((*first, Value::Tree(tree)));
            }
        }
    }

    /// What stands at `path`: every value of a repeated field, in the first of each message on the way.
    #[must_use]
    pub fn at(&self, path: &[u32]) -> Vec<Value> {
        let Some((first, rest)) = path.split_first() else {
            return Vec::new();
        };
        let mut found = self
            .0
            .iter()
            .filter(|(tag, _)| tag == first)
            .map(|(_, value)| value);
        if rest.is_empty() {
            return found.cloned().collect();
        }
        found
            .next()
            .and_then(Value::tree)
            .map(|tree| tree.at(rest))
            .unwrap_or_default()
    }

    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, value) in &self.0 {
            match value {
                Value::Number(number) => {
                    encode_key(*tag, WireType::Varint, &mut out);
                    encode_varint(*number, &mut out);
                }
                Value::RawNumber(bytes) => {
                    encode_key(*tag, WireType::Varint, &mut out);
                    out.extend_from_slice(bytes);
                }
                Value::Bytes(bytes) => delimited(*tag, bytes, &mut out),
                Value::Tree(tree) => delimited(*tag, &tree.encode(), &mut out),
            }
        }
        out
    }
}

fn delimited(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Calls a method with these messages, as bytes, and answers the first message that comes back.
///
/// # Errors
/// The status of the call.
pub async fn call(
    channel: &Channel,
    method: &Method,
    messages: Vec<Vec<u8>>,
) -> Result<Vec<u8>, Status> {
    let path = format!("/{}/{}", method.service, method.name)
        .parse()
        .map_err(|_| Status::internal("harness: no path"))?;
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(format!("harness: {error:?}")))?;
    let request = tonic::Request::new(tokio_stream::iter(messages));
    let answer = grpc.streaming(request, path, Bytes).await?;
    let first = answer.into_inner().message().await?;
    Ok(first.unwrap_or_default())
}

/// Messages that nobody takes apart.
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(bytes.copy_to_bytes(bytes.remaining()).to_vec()))
    }
}
