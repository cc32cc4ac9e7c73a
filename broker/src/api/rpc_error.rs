//! One refused or failed call, and how it goes on the wire.
//!
//! An [`RpcError`] is a code, a stable reason in UPPER_SNAKE, and one sentence or two that say what was wrong and what to
//! do. It becomes a `tonic::Status` with `google.rpc` details: the reason, the field, and when it pays to retry.

use std::time::Duration;

use attache_proto::details::Details;
use tonic::{Code, Status};

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

    /// As [`RpcError::exhausted`], for a limit that is known to hold so long.
    #[must_use]
    pub fn exhausted_for(
        reason: &'static str,
        message: impl Into<String>,
        retry_after: Duration,
    ) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::exhausted(reason, message)
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
        let details = Details {
            reason: error.reason.to_owned(),
            field: error.field,
            retry_after: error.retry_after,
        };
        details.status(error.code, &error.message)
    }
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
        let details = Details::of(&status).unwrap();
        assert_eq!(details.reason, "INVALID_FIELD");
        assert_eq!(details.field.as_deref(), Some("path.name"));

        let status = Status::from(RpcError::unavailable(
            "STORE_AWAY",
            "the store is away; try again",
        ));
        let details = Details::of(&status).unwrap();
        assert_eq!(
            (details.field, details.retry_after),
            (None, Some(Duration::from_secs(1)))
        );
    }
}
