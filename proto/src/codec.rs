//! The codec of every service here: protobuf as ever, and strict about what comes in as a request.
//!
//! A request is walked by its descriptor before it is decoded, so that what is malformed is answered INVALID_ARGUMENT
//! with the field's name (tonic's own codec answers INTERNAL). In `attache.v1` a field that this build does not know is
//! refused too: protobuf would pass over it, and a condition that is passed over is a condition that does not hold. So a
//! broker is upgraded before its callers. In the Container Storage Interface and the registration, whose fields are not
//! ours to add, kubelet may be newer, and unknown fields are passed over. Answers are decoded as protobuf has it.
//!
//! [`own_words`] does the like for what tonic answers before a codec sees anything.

use std::{marker::PhantomData, sync::OnceLock};

use bytes::Buf;
use prost::{Message, Name};
use prost_types::FileDescriptorSet;
use tonic::{
    Code, Status,
    body::Body,
    codec::{BufferSettings, DecodeBuf, Decoder},
};
use tonic_prost::{ProstDecoder, ProstEncoder};

use crate::{details::Details, shape::Shapes};

/// The package whose requests may have no field that this build does not know.
const STRICT: &str = "attache.v1";

/// Encodes `T`, decodes `U`.
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Name + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = StrictDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        StrictDecoder(ProstDecoder::new(BufferSettings::default()))
    }
}

/// Decodes `U`; a request only after it was held against its descriptor.
pub struct StrictDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default + Name> Decoder for StrictDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // One message lies in one piece.
        check::<U>(buf.chunk())?;
        self.0.decode(buf)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// Holds the bytes of a request against its descriptor; answers are not looked at.
fn check<U: Name>(bytes: &[u8]) -> Result<(), Status> {
    let shapes = shapes();
    let Some(shape) = shapes.request(&U::full_name()) else {
        return Ok(());
    };
    let walked = shapes.walk(shape, bytes, U::PACKAGE == STRICT);
    walked.map_err(|fault| malformed(&fault.place(U::NAME), &fault.problem()))
}

fn shapes() -> &'static Shapes {
    static SHAPES: OnceLock<Shapes> = OnceLock::new();
    SHAPES.get_or_init(|| {
        // They were encoded by the build.
        let set = FileDescriptorSet::decode(crate::DESCRIPTORS).unwrap_or_default();
        Shapes::of(&set)
    })
}

fn malformed(place: &str, problem: &str) -> Status {
    let details = Details {
        reason: "MALFORMED_MESSAGE".to_owned(),
        field: Some(place.to_owned()),
        retry_after: None,
    };
    details.status(Code::InvalidArgument, &format!("{place}: {problem}"))
}

/// What tonic answers before a codec sees a message, in the codes and words of ours: a message over the limit is
/// RESOURCE_EXHAUSTED, a call without a message or with a broken frame INVALID_ARGUMENT. For the servers' outermost layer.
#[must_use]
pub fn own_words(response: http::Response<Body>) -> http::Response<Body> {
    let Some(status) = Status::from_header_map(response.headers()) else {
        return response;
    };
    if !status.details().is_empty() {
        return response;
    }
    let text = status.message();
    let frame = text.starts_with("Missing request message") || text.starts_with("protocol error");
    let ours = match status.code() {
        Code::OutOfRange => {
            let details = Details {
                reason: "MESSAGE_TOO_LARGE".to_owned(),
                ..Details::default()
            };
            let numbers = text.split_once(": ").map_or(text, |(_, numbers)| numbers);
            details.status(
                Code::ResourceExhausted,
                &format!("the request is larger than is read ({numbers}); send less at a time"),
            )
        }
        Code::Internal if frame => malformed("request", "holds no whole message; send one message"),
        _ => return response,
    };
    ours.into_http()
}

#[cfg(test)]
mod tests;
