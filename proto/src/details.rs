//! What a status of ours carries beside its code and its sentence, as `google.rpc` has it.
//!
//! ```text
//! grpc-status-details-bin = google.rpc.Status { code, message, details: [ErrorInfo, BadRequest?, RetryInfo?] }
//! ```
//! Source: google/rpc/status.proto, google/rpc/error_details.proto.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

/// ErrorInfo's domain.
const DOMAIN: &str = "attache.dev";
const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";
const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// The details of a status: for programs, which compare them; people read the message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Stable, UPPER_SNAKE.
    pub reason: String,
    /// The field of the request that is wrong, with dots: `path.name`.
    pub field: Option<String>,
    /// When it pays to try again.
    pub retry_after: Option<Duration>,
}

impl Details {
    /// A status with these details.
    #[must_use]
    pub fn status(&self, code: Code, message: &str) -> Status {
        let mut details = vec![any(
            ERROR_INFO,
            &ErrorInfo {
                reason: self.reason.clone(),
                domain: DOMAIN.into(),
            },
        )];
        if let Some(field) = &self.field {
            let violation = FieldViolation {
                field: field.clone(),
                description: message.to_owned(),
            };
            details.push(any(
                BAD_REQUEST,
                &BadRequest {
                    field_violations: vec![violation],
                },
            ));
        }
        if let Some(delay) = self.retry_after {
            let retry_delay = prost_types::Duration::try_from(delay).ok();
            details.push(any(RETRY_INFO, &RetryInfo { retry_delay }));
        }
        let rpc = RpcStatus {
            code: code as i32,
            message: message.to_owned(),
            details,
        };
        Status::with_details(code, message, Bytes::from(rpc.encode_to_vec()))
    }

    /// The details of a status of ours; none of any other, or of one that is malformed.
    #[must_use]
    pub fn of(status: &Status) -> Option<Self> {
        let details = RpcStatus::decode(status.details()).ok()?.details;
        let info: ErrorInfo =
            first(&details, ERROR_INFO).filter(|i: &ErrorInfo| i.domain == DOMAIN)?;
        let field = first(&details, BAD_REQUEST)
            .and_then(|bad: BadRequest| bad.field_violations.into_iter().next())
            .map(|violation| violation.field);
        let retry_after = first(&details, RETRY_INFO)
            .and_then(|retry: RetryInfo| Duration::try_from(retry.retry_delay?).ok());
        Some(Self {
            reason: info.reason,
            field,
            retry_after,
        })
    }
}

fn any(type_url: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any {
        type_url: type_url.to_owned(),
        value: message.encode_to_vec(),
    }
}

fn first<M: Message + Default>(details: &[prost_types::Any], type_url: &str) -> Option<M> {
    let found = details.iter().find(|detail| detail.type_url == type_url)?;
    M::decode(found.value.as_slice()).ok()
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
    fn what_is_put_in_is_read_back() {
        let whole = Details {
            reason: "INVALID_FIELD".into(),
            field: Some("path.name".into()),
            retry_after: Some(Duration::from_secs(1)),
        };
        let bare = Details {
            reason: "BANNED".into(),
            ..Details::default()
        };
        for details in [whole, bare] {
            let status = details.status(Code::Aborted, "what, and what to do");
            assert_eq!(
                (status.code(), status.message()),
                (Code::Aborted, "what, and what to do")
            );
            assert_eq!(Details::of(&status), Some(details));
        }
    }

    #[test]
    fn details_of_others_are_none() {
        let info = ErrorInfo {
            reason: "HEAD_MOVED".into(),
            domain: "example.com".into(),
        };
        let others = RpcStatus {
            code: 10,
            message: String::new(),
            details: vec![any(ERROR_INFO, &info)],
        };
        for bytes in [vec![], vec![0xff], others.encode_to_vec()] {
            let status = Status::with_details(Code::Aborted, "x", bytes.into());
            assert_eq!(Details::of(&status), None);
        }
    }
}
