//! One refused or failed call, and how it goes on the wire.
//!
//! An [`RpcError`] is a code, a stable reason in UPPER_SNAKE, and one sentence or two that say what was wrong and what to
//! do. It becomes a `tonic::Status` with `google.rpc` details: ErrorInfo (reason, domain `attache.dev`), BadRequest (the
//! field) and RetryInfo (when it pays to retry). Source: google/rpc/error_details.proto, google/rpc/status.proto.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

/// ErrorInfo's domain.
const DOMAIN: &str = "attache.dev";
const TYPE_PREFIX: &str = "type.googleapis.com/google.rpc.";

/// A call that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcError {
    code: Code,
    reason: &'static str,
    message: String,
    field: Option<String>,
    retry_after: Option<Duration>,
}

impl RpcError {
    /// A call that failed for `reason`.
    #[must_use]
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            field: None,
            retry_after: None,
        }
    }

    /// INVALID_ARGUMENT: `field` is wrong, and `problem` says how and what would be right.
    #[must_use]
    pub fn invalid(field: impl Into<String>, problem: impl AsRef<str>) -> Self {
        let field = field.into();
        let message = format!("{field}: {}", problem.as_ref());
        Self {
            field: Some(field),
            ..Self::new(Code::InvalidArgument, "INVALID_FIELD", message)
        }
    }

    /// UNAVAILABLE: something that the broker needs is away; trying again pays.
    #[must_use]
    pub fn unavailable(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(Code::Unavailable, reason, message)
        }
    }

    /// RESOURCE_EXHAUSTED: a limit; trying again later pays.
    #[must_use]
    pub fn exhausted(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(Code::ResourceExhausted, reason, message)
        }
    }

    /// INTERNAL: a record that fails authentication, or a defect. The log has the rest.
    #[must_use]
    pub fn internal(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::Internal, reason, message)
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The stable reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<RpcError> for Status {
    fn from(error: RpcError) -> Self {
        let mut details = vec![any(
            "ErrorInfo",
            &ErrorInfo {
                reason: error.reason.into(),
                domain: DOMAIN.into(),
            },
        )];
        if let Some(field) = error.field {
            let violation = FieldViolation {
                field,
                description: error.message.clone(),
            };
            details.push(any(
                "BadRequest",
                &BadRequest {
                    field_violations: vec![violation],
                },
            ));
        }
        if let Some(delay) = error.retry_after {
            let retry_delay = prost_types::Duration::try_from(delay).ok();
            details.push(any("RetryInfo", &RetryInfo { retry_delay }));
        }
        let status = RpcStatus {
            code: error.code as i32,
            message: error.message.clone(),
            details,
        };
        Self::with_details(
            error.code,
            error.message,
            Bytes::from(status.encode_to_vec()),
        )
    }
}

fn any(name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any {
        type_url: format!("{TYPE_PREFIX}{name}"),
        value: message.encode_to_vec(),
    }
}

#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

#[derive(Clone, PartialEq, Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<FieldViolation>,
}

#[derive(Clone, PartialEq, Message)]
struct FieldViolation {
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_carry_reason_field_and_delay() {
        let status = Status::from(RpcError::invalid(
            "path.name",
            "is empty; give the secret a name",
        ));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            status.message(),
            "path.name: is empty; give the secret a name"
        );
        let rpc = RpcStatus::decode(status.details()).unwrap();
        assert_eq!(rpc.details.len(), 2);
        assert_eq!(
            rpc.details[0].type_url,
            "type.googleapis.com/google.rpc.ErrorInfo"
        );
        let info = ErrorInfo::decode(rpc.details[0].value.as_slice()).unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("INVALID_FIELD", "attache.dev")
        );
        let bad = BadRequest::decode(rpc.details[1].value.as_slice()).unwrap();
        assert_eq!(bad.field_violations[0].field, "path.name");

        let status = Status::from(RpcError::unavailable(
            "STORE_AWAY",
            "the store is away; try again",
        ));
        let rpc = RpcStatus::decode(status.details()).unwrap();
        let retry = RetryInfo::decode(rpc.details[1].value.as_slice()).unwrap();
        assert_eq!(retry.retry_delay.unwrap().seconds, 1);
    }
}
