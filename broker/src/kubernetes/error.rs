//! Why a question to an API server has no answer. For the operator: nothing of it is told to a pod's author.

use std::time::Duration;

use thiserror::Error;

use super::breaker::RESTS_FOR;
use super::client::{DEADLINE, Operation};
use super::credentials::CredentialsError;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApiError {
    /// There is no cluster around the broker.
    #[error(
        "the broker does not run in a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; name the API server with --api-server and --credentials"
    )]
    NotInCluster,
    /// The folder of credentials.
    #[error("the credentials for the API server cannot be used: {0}")]
    Credentials(#[from] CredentialsError),
    /// No connection: the network, the name, or the certificate.
    #[error("no connection to the API server {server}: {problem}")]
    Connect {
        /// Its address.
        server: String,
        /// What the system or TLS says.
        problem: String,
    },
    /// It did not answer in time.
    #[error("the API server {server} did not answer within {} s", DEADLINE.as_secs())]
    Timeout {
        /// Its address.
        server: String,
    },
    /// It did not answer before, and is not asked for a moment.
    #[error("the API server did not answer before; it is asked again {} s later", RESTS_FOR.as_secs())]
    Resting,
    /// As many questions as may be are under way, and none ended in time.
    #[error("too many questions to the API server are under way")]
    Busy,
    /// 401: it does not know whom the token is of.
    #[error(
        "the API server does not accept the broker's own token ({}/token): is it of this cluster, and current?",
        .folder.display()
    )]
    Unauthenticated {
        /// The folder of credentials.
        folder: std::path::PathBuf,
    },
    /// 403: the broker's account may not do this.
    #[error(
        "the broker's account may not {}: bind it to a role with that rule",
        .operation.rule()
    )]
    Forbidden {
        /// What.
        operation: Operation,
    },
    /// 404, where there should be something.
    #[error("the API server does not serve {}", .operation.rule())]
    NotFound {
        /// What.
        operation: Operation,
    },
    /// 409: somebody else changed or made it first.
    #[error("the object was changed or made at the same moment")]
    Conflict,
    /// 429, until the question's time was over.
    #[error("the API server has too much to do; it asks to come again in {} s", .after.as_secs())]
    Throttled {
        /// What it said.
        after: Duration,
    },
    /// 5xx.
    #[error("the API server failed: it answered {status}")]
    Failed {
        /// The status.
        status: u16,
    },
    /// Any other status: a redirection, or a question that it does not understand.
    #[error("the API server answered {status} to the question to {}", .operation.rule())]
    Refused {
        /// The status.
        status: u16,
        /// What was asked.
        operation: Operation,
    },
    /// The answer is larger than such an answer can be.
    #[error("the API server's answer is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The most that it may have.
        limit_bytes: usize,
    },
    /// The answer is not the object that it should be.
    #[error("the API server's answer to {operation} is not the object it should be: {problem}", operation = .operation.name())]
    Malformed {
        /// What was asked.
        operation: Operation,
        /// What is wrong.
        problem: String,
    },
    /// The broker stops.
    #[error("the broker is stopping")]
    Stopping,
}

impl ApiError {
    /// What metrics call it.
    pub(super) const fn result(&self) -> &'static str {
        match self {
            Self::NotInCluster | Self::Credentials(_) => "no_credentials",
            Self::Connect { .. } => "no_connection",
            Self::Timeout { .. } => "timeout",
            Self::Resting => "resting",
            Self::Busy => "busy",
            Self::Unauthenticated { .. } => "unauthenticated",
            Self::Forbidden { .. } => "forbidden",
            Self::NotFound { .. } => "not_found",
            Self::Conflict => "conflict",
            Self::Throttled { .. } => "throttled",
            Self::Failed { .. } => "failed",
            Self::Refused { .. } => "refused",
            Self::TooLarge { .. } | Self::Malformed { .. } => "malformed",
            Self::Stopping => "stopping",
        }
    }

    /// Whether the server showed that it is at work; none when it was not asked.
    pub(super) const fn shows_life(&self) -> Option<bool> {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::Failed { .. } => Some(false),
            Self::Unauthenticated { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Conflict
            | Self::Throttled { .. }
            | Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::Malformed { .. } => Some(true),
            Self::NotInCluster
            | Self::Credentials(_)
            | Self::Resting
            | Self::Busy
            | Self::Stopping => None,
        }
    }
}
