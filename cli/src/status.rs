//! What came over gRPC, as a [`Failure`]: the one place where a status becomes an exit code and a sentence.
//!
//! ```text
//! connection refused, lost, too slow         -> 4    the broker is not the pinned one, or is no broker  -> 1
//! our certificate refused, UNAUTHENTICATED   -> 7    PERMISSION_DENIED                                   -> 3
//! INVALID_ARGUMENT, OUT_OF_RANGE             -> 2    NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, ABORTED -> 5
//! UNAVAILABLE, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, CANCELLED -> 4
//! INTERNAL, DATA_LOSS, UNIMPLEMENTED, UNKNOWN                   -> 1
//! ```
//!
//! A broker's message is a sentence or two already: what is wrong, why, and the mend. It is shown as it is, control
//! characters escaped. Its details give the stable reason, which programs compare and people do not need.

use std::error::Error;
use std::io;

use attache_mtls::stream::HandshakeError;
use attache_proto::details::Details;
use tonic::{Code, Status};

use crate::failure::{Exit, Failure, chain};

/// A broker's message is shown up to here, in characters.
const MESSAGE_LIMIT: usize = 4096;
/// An id that a broker gives a call is never longer, in bytes.
const CALL_ID_LIMIT: usize = 64;

/// Says that `what` was not done, and why.
#[must_use]
pub fn failure(what: &str, status: &Status) -> Failure {
    match transport(status) {
        Some(transport) => transport_failure(what, transport),
        None => {
            let failure = answered(what, status);
            match call_id(status) {
                Some(id) => failure.of_request(id),
                None => failure,
            }
        }
    }
}

/// The id that the broker gave the call, in its log too. A change has an id of its own, which is shown in its place.
fn call_id(status: &Status) -> Option<&str> {
    let id = status.metadata().get("attache-request-id")?.to_str().ok()?;
    (id.len() <= CALL_ID_LIMIT).then_some(id)
}

/// Whether the same request may get another answer at once: the broker did not answer, or it said so.
#[must_use]
pub fn pays_to_retry(status: &Status) -> bool {
    match transport(status) {
        Some(Transport::Lost(_)) => true,
        Some(Transport::NotTheBroker(_) | Transport::NotAccepted(_)) => false,
        None => matches!(
            status.code(),
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded
        ),
    }
}

/// Whether the request may have been carried out although no answer came.
#[must_use]
pub fn answer_was_lost(status: &Status) -> bool {
    matches!(transport(status), Some(Transport::Lost(_)))
        || matches!(
            status.code(),
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded
        )
}

/// The stable reason (UPPER_SNAKE) that the broker gave.
#[must_use]
pub fn reason(status: &Status) -> Option<String> {
    Details::of(status).map(|details| details.reason)
}

/// A call that got no answer.
#[derive(Debug, PartialEq, Eq)]
enum Transport {
    /// The other end is not the broker that was asked for.
    NotTheBroker(String),
    /// The other end does not accept our certificate.
    NotAccepted(String),
    /// No connection, or one that broke.
    Lost(String),
}

/// What went wrong below gRPC, if something did: then, and only then, a status has a source.
fn transport(status: &Status) -> Option<Transport> {
    let first = status.source()?;
    let mut next: Option<&(dyn Error + 'static)> = Some(first);
    let mut last = first;
    while let Some(error) = next {
        if let Some(found) = known(error) {
            return Some(found);
        }
        last = error;
        next = inner(error).or_else(|| error.source());
    }
    Some(Transport::Lost(last.to_string()))
}

/// An io error hides the error that it was made of from `source`.
fn inner<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
    Some(inner)
}

fn known(error: &(dyn Error + 'static)) -> Option<Transport> {
    if let Some(handshake) = error.downcast_ref::<HandshakeError>() {
        return match handshake {
            HandshakeError::Peer(peer) => Some(Transport::NotTheBroker(chain(peer))),
            HandshakeError::Alpn => Some(Transport::NotTheBroker(chain(handshake))),
            HandshakeError::Tls(rustls::Error::AlertReceived(alert)) => {
                Some(Transport::NotAccepted(format!("TLS alert {alert:?}")))
            }
            HandshakeError::Tls(tls) => Some(Transport::NotTheBroker(tls.to_string())),
            HandshakeError::Timeout { .. } | HandshakeError::Io(_) => {
                Some(Transport::Lost(chain(handshake)))
            }
            _ => None,
        };
    }
    let rustls::Error::AlertReceived(alert) = error.downcast_ref()? else {
        return None;
    };
    Some(Transport::NotAccepted(format!("TLS alert {alert:?}")))
}

fn transport_failure(what: &str, transport: Transport) -> Failure {
    match transport {
        Transport::NotTheBroker(why) => Failure::new(Exit::Failed, what)
            .because(format!(
                "what answers at the context's address is not the pinned broker: {why}"
            ))
            .mend("check address, broker and trust_bundle of the context; nothing was sent"),
        Transport::NotAccepted(why) => Failure::new(Exit::NotSignedIn, what)
            .because(format!(
                "the broker does not accept this operator's certificate ({why})"
            ))
            .mend("sign in: attache login"),
        Transport::Lost(why) => Failure::new(Exit::Unavailable, what)
            .because(format!("the broker did not answer: {why}"))
            .mend("check the address and that the broker runs, then try again"),
    }
}

fn answered(what: &str, status: &Status) -> Failure {
    let (exit, mend) = match status.code() {
        Code::InvalidArgument | Code::OutOfRange => (Exit::Usage, None),
        Code::PermissionDenied => (Exit::Denied, None),
        Code::Unauthenticated => (Exit::NotSignedIn, Some("sign in: attache login")),
        Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => {
            (Exit::Precondition, None)
        }
        Code::Unavailable | Code::ResourceExhausted => {
            (Exit::Unavailable, Some("try again in a moment"))
        }
        Code::DeadlineExceeded | Code::Cancelled => (
            Exit::Unavailable,
            Some("the broker is slow or shutting down; try again"),
        ),
        Code::Unimplemented => (
            Exit::Failed,
            Some("the broker is older than this attache: update the broker"),
        ),
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => {
            (Exit::Failed, Some("the broker's log says more"))
        }
    };
    let failure = Failure::new(exit, what).because(message(status));
    match mend {
        // A broker of ours that gives a reason has said what to do in its own words.
        Some(mend) if reason(status).is_none() => failure.mend(mend),
        Some(_) | None => failure,
    }
}

fn message(status: &Status) -> String {
    let text: String = status.message().chars().take(MESSAGE_LIMIT).collect();
    if text.is_empty() {
        format!("the broker answers {:?}", status.code())
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(error: impl Error + Send + Sync + 'static) -> Status {
        let mut status = Status::unavailable("transport error");
        status.set_source(std::sync::Arc::new(error));
        status
    }

    #[test]
    fn every_code_has_its_exit() {
        let cases = [
            (Code::InvalidArgument, Exit::Usage),
            (Code::OutOfRange, Exit::Usage),
            (Code::PermissionDenied, Exit::Denied),
            (Code::Unauthenticated, Exit::NotSignedIn),
            (Code::NotFound, Exit::Precondition),
            (Code::AlreadyExists, Exit::Precondition),
            (Code::FailedPrecondition, Exit::Precondition),
            (Code::Aborted, Exit::Precondition),
            (Code::Unavailable, Exit::Unavailable),
            (Code::ResourceExhausted, Exit::Unavailable),
            (Code::DeadlineExceeded, Exit::Unavailable),
            (Code::Cancelled, Exit::Unavailable),
            (Code::Unimplemented, Exit::Failed),
            (Code::Unknown, Exit::Failed),
            (Code::Internal, Exit::Failed),
            (Code::DataLoss, Exit::Failed),
        ];
        for (code, exit) in cases {
            let failed = failure("it was not done", &Status::new(code, "because of this"));
            assert_eq!(failed.exit, exit, "{code:?}");
            assert!(
                failed
                    .to_string()
                    .starts_with("attache: it was not done: because of this"),
                "{failed}"
            );
        }
        assert!(
            failure("x", &Status::new(Code::NotFound, ""))
                .to_string()
                .contains("NotFound")
        );
    }

    #[test]
    fn a_connection_says_who_is_to_blame() {
        let refused = lost(HandshakeError::Io(io::Error::from(
            io::ErrorKind::ConnectionRefused,
        )));
        assert_eq!(failure("x", &refused).exit, Exit::Unavailable);
        assert!(pays_to_retry(&refused) && answer_was_lost(&refused));

        let stranger = lost(HandshakeError::Peer(
            attache_mtls::verify::PeerError::UnknownIssuer,
        ));
        assert_eq!(failure("x", &stranger).exit, Exit::Failed);
        assert!(
            !pays_to_retry(&stranger)
                && failure("x", &stranger)
                    .to_string()
                    .contains("not the pinned broker")
        );

        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
        let nested = lost(io::Error::other(alert));
        assert_eq!(failure("x", &nested).exit, Exit::NotSignedIn);
        assert!(!pays_to_retry(&nested));
    }

    #[test]
    fn the_reason_is_read_from_the_details() {
        let details = Details {
            reason: "HEAD_MOVED".into(),
            ..Details::default()
        };
        let status = details.status(Code::Aborted, "moved");
        assert_eq!(reason(&status).as_deref(), Some("HEAD_MOVED"));
        assert_eq!(reason(&Status::aborted("x")), None);
        assert_eq!(
            reason(&Status::with_details(Code::Aborted, "x", vec![0xff].into())),
            None
        );
    }

    #[test]
    fn an_answer_is_named_by_the_call_and_silence_by_nothing() {
        let mut status = Status::not_found("there is no such secret");
        let id = "5b3f9c1e-17";
        status
            .metadata_mut()
            .insert("attache-request-id", id.parse().unwrap());
        assert!(
            failure("x", &status)
                .to_string()
                .ends_with("\n  request: 5b3f9c1e-17")
        );
        let long = "a".repeat(65).parse().unwrap();
        status.metadata_mut().insert("attache-request-id", long);
        assert_eq!(failure("x", &status).request, None);
        let mut away = lost(io::Error::other("reset"));
        away.metadata_mut()
            .insert("attache-request-id", id.parse().unwrap());
        assert_eq!(failure("x", &away).request, None);
    }

    #[test]
    fn a_hostile_message_is_cut_and_escaped() {
        let shown = failure(
            "x",
            &Status::internal(format!("\u{1b}[2J{}", "a".repeat(10_000))),
        )
        .to_string();
        assert!(shown.len() < 4_300 && !shown.contains('\u{1b}'));
    }
}
