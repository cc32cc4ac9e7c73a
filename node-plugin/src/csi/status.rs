//! The one place that makes a gRPC status for kubelet.
//!
//! The codes are the CSI specification's. Kubelet takes ABORTED, UNAVAILABLE, RESOURCE_EXHAUSTED, CANCELLED and
//! DEADLINE_EXCEEDED for "perhaps done" and will unpublish later; any other code ends the matter for it, so those are
//! used only when nothing is mounted ([`PublishError::LeftMounted`] is how the agent says the contrary).
//!
//! A message is one line of at most 1,024 bytes and the same on each retry: kubelet folds equal ones into one event.

use tonic::{Code, Status};

use super::request::RequestError;
use crate::agent::broker::{CallError, RefusalKind};
use crate::agent::deliver::DeliverError;
use crate::agent::volumes::PublishError;
use crate::ipc::{Fault, FaultCode};

/// The longest message, in bytes: what a pod's event shows.
const MAX_MESSAGE_BYTES: usize = 1024;

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        status(Code::InvalidArgument, &error.to_string())
    }
}

impl From<PublishError> for Status {
    fn from(error: PublishError) -> Self {
        let code = publish_code(&error);
        let text = match &error {
            // The broker's own words, as they are: they are what the pod's author is meant to read.
            PublishError::Deliver(DeliverError::Call(CallError::Refused { message, .. })) => {
                message.clone()
            }
            PublishError::Busy
            | PublishError::TooMany
            | PublishError::NotJoined
            | PublishError::Deliver(_)
            | PublishError::Mount(_)
            | PublishError::NotSeen(_)
            | PublishError::MounterAway
            | PublishError::NotAsWritten
            | PublishError::LeftMounted(_)
            | PublishError::Stopping => format!("attache: {error}"),
        };
        status(code, &text)
    }
}

/// No volume of ours is at the path.
pub(super) fn not_found() -> Status {
    status(
        Code::NotFound,
        "attache: no volume of this id is published at volume_path",
    )
}

/// A verb of the specification that this driver does not have.
pub(super) fn unimplemented(verb: &str) -> Status {
    status(
        Code::Unimplemented,
        &format!("attache: {verb} is not served: volumes are published only"),
    )
}

fn publish_code(error: &PublishError) -> Code {
    match error {
        PublishError::Busy => Code::Aborted,
        PublishError::TooMany => Code::ResourceExhausted,
        PublishError::NotJoined
        | PublishError::NotSeen(_)
        | PublishError::MounterAway
        | PublishError::LeftMounted(_)
        | PublishError::Stopping => Code::Unavailable,
        PublishError::Deliver(error) => deliver_code(error),
        PublishError::Mount(fault) => mount_code(*fault),
        PublishError::NotAsWritten => Code::Internal,
    }
}

fn deliver_code(error: &DeliverError) -> Code {
    match error {
        DeliverError::Call(CallError::Refused { kind, .. }) => match kind {
            RefusalKind::InvalidArgument => Code::InvalidArgument,
            RefusalKind::Unauthenticated | RefusalKind::KeyUnknown => Code::Unauthenticated,
            RefusalKind::PermissionDenied => Code::PermissionDenied,
            RefusalKind::ResourceExhausted => Code::ResourceExhausted,
            RefusalKind::Unavailable => Code::Unavailable,
            RefusalKind::Internal => Code::Internal,
        },
        DeliverError::Call(CallError::Away | CallError::Silent) => Code::Unavailable,
        DeliverError::Memory(_) | DeliverError::TooLarge => Code::ResourceExhausted,
        DeliverError::Answer(_)
        | DeliverError::Envelope(_)
        | DeliverError::Carry(_)
        | DeliverError::Stale => Code::Internal,
    }
}

fn mount_code(fault: Fault) -> Code {
    match fault.code {
        FaultCode::NoVolumeFolder
        | FaultCode::PathRefused
        | FaultCode::ForeignMount
        | FaultCode::SwapOn => Code::FailedPrecondition,
        FaultCode::NotMounted => Code::Unavailable,
        FaultCode::NoSpace | FaultCode::NoMemory => Code::ResourceExhausted,
        FaultCode::BadMemfd
        | FaultCode::BadGeneration
        | FaultCode::NotAsWritten
        | FaultCode::Os => Code::Internal,
    }
}

/// A status whose message is one line and no longer than an event shows.
fn status(code: Code, text: &str) -> Status {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line.truncate(line.floor_char_boundary(MAX_MESSAGE_BYTES));
    Status::new(code, line)
}

#[cfg(test)]
mod tests;
