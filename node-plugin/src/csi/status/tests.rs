use attache_arena::ArenaError;

use super::*;
use crate::agent::broker::RefusalKind;

fn fault(code: FaultCode) -> PublishError {
    PublishError::Mount(Fault {
        code,
        errno: Some(40),
    })
}

fn refused(kind: RefusalKind) -> PublishError {
    DeliverError::Call(CallError::Refused {
        kind,
        message: "the broker's words".into(),
    })
    .into()
}

#[test]
fn every_failure_has_its_code() {
    let memory = ArenaError::Exhausted {
        bytes: 4096,
        source: rustix::io::Errno::AGAIN,
    };
    let rows = [
        (PublishError::Busy, Code::Aborted),
        (PublishError::TooMany, Code::ResourceExhausted),
        (PublishError::NotJoined, Code::Unavailable),
        (PublishError::MounterAway, Code::Unavailable),
        (
            PublishError::NotSeen(Fault {
                code: FaultCode::ForeignMount,
                errno: None,
            }),
            Code::Unavailable,
        ),
        (PublishError::NotAsWritten, Code::Internal),
        (
            PublishError::LeftMounted(Box::new(fault(FaultCode::ForeignMount))),
            Code::Unavailable,
        ),
        (PublishError::Stopping, Code::Unavailable),
        (refused(RefusalKind::InvalidArgument), Code::InvalidArgument),
        (refused(RefusalKind::Unauthenticated), Code::Unauthenticated),
        (refused(RefusalKind::KeyUnknown), Code::Unauthenticated),
        (
            refused(RefusalKind::PermissionDenied),
            Code::PermissionDenied,
        ),
        (
            refused(RefusalKind::ResourceExhausted),
            Code::ResourceExhausted,
        ),
        (refused(RefusalKind::Unavailable), Code::Unavailable),
        (refused(RefusalKind::Internal), Code::Internal),
        (
            DeliverError::Call(CallError::Away).into(),
            Code::Unavailable,
        ),
        (
            DeliverError::Call(CallError::Silent).into(),
            Code::Unavailable,
        ),
        (DeliverError::TooLarge.into(), Code::ResourceExhausted),
        (DeliverError::Memory(memory).into(), Code::ResourceExhausted),
        (DeliverError::Stale.into(), Code::Internal),
        (fault(FaultCode::NoVolumeFolder), Code::FailedPrecondition),
        (fault(FaultCode::PathRefused), Code::FailedPrecondition),
        (fault(FaultCode::ForeignMount), Code::FailedPrecondition),
        (fault(FaultCode::SwapOn), Code::FailedPrecondition),
        (fault(FaultCode::NotMounted), Code::Unavailable),
        (fault(FaultCode::NoSpace), Code::ResourceExhausted),
        (fault(FaultCode::NoMemory), Code::ResourceExhausted),
        (fault(FaultCode::BadMemfd), Code::Internal),
        (fault(FaultCode::BadGeneration), Code::Internal),
        (fault(FaultCode::NotAsWritten), Code::Internal),
        (fault(FaultCode::Os), Code::Internal),
    ];
    for (error, code) in rows {
        let told = error.to_string();
        let status = Status::from(error);
        assert_eq!(status.code(), code, "{told}");
        assert!(status.message().contains(&told), "{status:?}");
    }
}

#[test]
fn a_message_is_one_short_line() {
    let hostile = format!("a\nb\r\0\t{}", "é".repeat(2000));
    let status = status(Code::PermissionDenied, &hostile);
    assert!(status.message().len() <= MAX_MESSAGE_BYTES);
    assert!(
        status.message().starts_with("a b   é") && !status.message().contains(char::is_control)
    );
}

#[test]
fn the_brokers_words_pass_on_unchanged() {
    assert_eq!(
        Status::from(refused(RefusalKind::PermissionDenied)).message(),
        "the broker's words"
    );
    assert!(
        Status::from(PublishError::Busy)
            .message()
            .starts_with("attache: ")
    );
}
