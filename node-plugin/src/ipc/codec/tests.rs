use proptest::prelude::*;

use super::*;
use crate::vectors::{Expected, Fields, run};

fn target(pod: &str, volume: &str) -> Target {
    Target {
        pod: PodUid::parse(pod).unwrap(),
        volume: VolumeName::parse(volume).unwrap(),
    }
}

fn any_target() -> impl Strategy<Value = Target> {
    (
        "[A-Za-z0-9][A-Za-z0-9-]{0,62}",
        "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
    )
        .prop_map(|(pod, volume)| target(&pod, &volume))
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        any_target().prop_map(Request::Attach),
        (any_target(), any::<u64>()).prop_map(|(target, memfd_bytes)| Request::Write {
            target,
            memfd_bytes
        }),
        any_target().prop_map(Request::Wipe),
        any_target().prop_map(Request::Detach),
        proptest::option::of(any_target()).prop_map(|after| Request::List { after }),
        any_target().prop_map(Request::Stat),
    ]
}

fn any_stat() -> impl Strategy<Value = VolumeStat> {
    let folder = (any::<u64>(), any::<[u8; 8]>())
        .prop_map(|(seq, digest_prefix)| FolderName { seq, digest_prefix });
    (
        any::<(bool, bool, bool, u32, u64, [u8; 32])>(),
        proptest::option::of(folder),
    )
        .prop_map(
            |((mounted, whole, complete, files, bytes, file_set), generation)| VolumeStat {
                mounted,
                whole,
                complete,
                generation,
                files,
                bytes,
                file_set,
            },
        )
}

/// A request with an answer that it can have.
fn any_exchange() -> impl Strategy<Value = (Request, Result<Answer, Fault>)> {
    let fault =
        (0..FaultCode::ALL.len(), proptest::option::of(1_u16..200)).prop_map(|(index, errno)| {
            Fault {
                code: FaultCode::ALL[index],
                errno,
            }
        });
    let page = proptest::collection::vec(any_target(), 0..=LIST_PAGE);
    (
        any_request(),
        any::<bool>(),
        page,
        any_stat(),
        proptest::option::of(fault),
    )
        .prop_map(|(request, first, page, stat, fault)| {
            let answer = match &request {
                Request::Attach(_) => Answer::Attached { made: first },
                Request::Write { .. } => Answer::Written { changed: first },
                Request::Wipe(_) => Answer::Wiped { changed: first },
                Request::Detach(_) => Answer::Detached { was_mounted: first },
                Request::List { .. } => Answer::Volumes { page, more: first },
                Request::Stat(_) => Answer::Stat(stat),
            };
            (request, fault.map_or(Ok(answer), Err))
        })
}

proptest! {
    #[test]
    fn a_request_comes_back_as_it_went(request in any_request(), id: u32) {
        prop_assert_eq!(Request::decode(&request.encode(id)), Ok((id, request)));
    }

    #[test]
    fn an_answer_comes_back_as_it_went((request, answer) in any_exchange(), id: u32) {
        let bytes = request.encode_answer(id, &answer);
        prop_assert_eq!(request.decode_answer(id, &bytes), Ok(answer));
    }

    #[test]
    fn what_decodes_is_what_is_encoded(request in any_request(), at in 0..REQUEST_BYTES, to: u8) {
        let mut bytes = request.encode(7);
        bytes[at] = to;
        if let Ok((id, other)) = Request::decode(&bytes) {
            prop_assert_eq!(other.encode(id), bytes);
        }
    }

    #[test]
    fn an_answer_has_one_spelling((request, answer) in any_exchange(), at in 0..ANSWER_BYTES, to: u8) {
        let mut bytes = request.encode_answer(7, &answer);
        bytes[at] = to;
        if let Ok(other) = request.decode_answer(7, &bytes) {
            prop_assert_eq!(request.encode_answer(7, &other), bytes);
        }
    }

    #[test]
    fn noise_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Request::decode(&bytes).is_err());
    }
}

#[test]
fn a_request_has_the_documented_bytes() {
    let request = Request::Write {
        target: target("uid-1", "db"),
        memfd_bytes: 0x0102,
    };
    let mut expected = vec![0, 1, 0, 2, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0, 0, 0, 1, 2];
    expected.resize(32, 0);
    expected.extend_from_slice(&[5, 2]);
    expected.extend_from_slice(b"uid-1");
    expected.resize(32 + 65, 0);
    expected.extend_from_slice(b"db");
    expected.resize(160, 0);
    assert_eq!(request.encode(0xdead_beef).to_vec(), expected);
}

#[test]
fn a_hello_carries_the_facts() {
    for (noswap, inode_flags) in [(false, false), (true, false), (false, true), (true, true)] {
        let facts = Facts {
            noswap,
            inode_flags,
        };
        assert_eq!(decode_hello(&encode_hello(facts)), Ok(facts));
    }
}

/// The fields of a request by their place, each made wrong in one way.
#[test]
fn each_wrong_field_of_a_request_is_refused() {
    let good = Request::Attach(target("uid-1", "db")).encode(1);
    let changed = |at: usize, to: u8| {
        let mut bytes = good;
        bytes[at] = to;
        Request::decode(&bytes)
    };
    assert!(Request::decode(&good).is_ok());
    assert_eq!(changed(1, 2), Err(MessageError::Version(2)));
    assert_eq!(
        changed(3, 0),
        Err(MessageError::Unknown {
            field: "verb",
            value: 0
        })
    );
    assert_eq!(
        changed(3, 7),
        Err(MessageError::Unknown {
            field: "verb",
            value: 7
        })
    );
    assert_eq!(
        changed(2, 1),
        Err(MessageError::Unknown {
            field: "verb",
            value: 257
        })
    );
    assert_eq!(
        changed(15, 1),
        Err(MessageError::Malformed("memory file size"))
    );
    assert_eq!(changed(16, 1), Err(MessageError::Malformed("unused bytes")));
    assert_eq!(changed(32, 0), Err(MessageError::Malformed("pod uid")));
    assert_eq!(changed(32, 64), Err(MessageError::Malformed("pod uid")));
    assert_eq!(
        changed(33, 255),
        Err(MessageError::Malformed("volume name"))
    );
    assert_eq!(changed(34, b'/'), Err(MessageError::Malformed("pod uid")));
    assert_eq!(changed(34, 0xff), Err(MessageError::Malformed("pod uid")));
    assert_eq!(
        changed(97, b'.'),
        Err(MessageError::Malformed("volume name"))
    );
    assert_eq!(changed(159, 1), Err(MessageError::Malformed("volume name")));
    let mut unnamed = good;
    unnamed[32..].fill(0);
    assert_eq!(
        Request::decode(&unnamed),
        Err(MessageError::Malformed("volume"))
    );
    for len in [0, 159] {
        let size = MessageError::Size {
            expected: REQUEST_BYTES,
            found: len,
        };
        assert_eq!(Request::decode(&good[..len]), Err(size));
    }
}

#[test]
fn an_answer_to_something_else_is_refused() {
    let attach = Request::Attach(target("uid-1", "db"));
    let good = attach.encode_answer(1, &Ok(Answer::Attached { made: true }));
    assert_eq!(
        attach.decode_answer(2, &good),
        Err(MessageError::OutOfOrder)
    );
    let detach = Request::Detach(target("uid-1", "db"));
    assert_eq!(
        detach.decode_answer(1, &good),
        Err(MessageError::OutOfOrder)
    );
    assert_eq!(decode_hello(&good), Err(MessageError::OutOfOrder));
    let mut unknown = good;
    unknown[9] = 12;
    assert_eq!(
        attach.decode_answer(1, &unknown),
        Err(MessageError::Unknown {
            field: "fault",
            value: 12
        })
    );
}

fn volume(given: &Fields) -> Target {
    target(given.text("pod"), given.text("name"))
}

fn request(verb: &str, target: Option<Target>, memfd_bytes: u64) -> Request {
    let named = || target.clone().unwrap();
    match verb {
        "attach" => Request::Attach(named()),
        "write" => Request::Write {
            target: named(),
            memfd_bytes,
        },
        "wipe" => Request::Wipe(named()),
        "detach" => Request::Detach(named()),
        "list" => Request::List { after: target },
        "stat" => Request::Stat(named()),
        other => panic!("a verb {other}"),
    }
}

#[test]
fn requests_are_those_of_the_vectors() {
    run("ipc-request", true, |given, expected| match expected {
        Expected::Out(out) => {
            let target = given.object("volume").map(|given| volume(&given));
            let request = request(given.text("verb"), target, given.u64("memfd_bytes"));
            let id = given.u32("id");
            assert_eq!(request.encode(id).as_slice(), out.bytes("message"));
            assert_eq!(Request::decode(&out.bytes("message")), Ok((id, request)));
        }
        Expected::Refused => assert!(Request::decode(&given.bytes("message")).is_err()),
    });
}

/// The answer of a case, by its verb's one meaning of each flag.
fn answer(given: &Fields) -> Result<Answer, Fault> {
    let fault = given.u64("fault");
    if fault != 0 {
        let code = FaultCode::ALL
            .into_iter()
            .find(|code| *code as u64 == fault);
        let errno = u16::try_from(given.u64("errno")).unwrap();
        return Err(Fault {
            code: code.unwrap(),
            errno: (errno != 0).then_some(errno),
        });
    }
    let flags = given.texts("flags");
    let set = |flag: &str| flags.iter().any(|set| set == flag);
    Ok(match given.text("verb") {
        "hello" => Answer::Hello(Facts {
            noswap: set("noswap"),
            inode_flags: set("inode_flags"),
        }),
        "attach" => Answer::Attached { made: set("made") },
        "write" => Answer::Written {
            changed: set("changed"),
        },
        "wipe" => Answer::Wiped {
            changed: set("changed"),
        },
        "detach" => Answer::Detached {
            was_mounted: set("was_mounted"),
        },
        "list" => Answer::Volumes {
            page: given.list("volumes").iter().map(volume).collect(),
            more: set("more"),
        },
        _ => {
            let stat = given.object("stat").unwrap();
            let held = set("generation").then(|| FolderName {
                seq: stat.u64("seq"),
                digest_prefix: stat.array("digest_prefix"),
            });
            Answer::Stat(VolumeStat {
                mounted: set("mounted"),
                whole: set("whole"),
                complete: set("complete"),
                generation: held,
                files: stat.u32("files"),
                bytes: stat.u64("bytes"),
                file_set: stat.array("file_set"),
            })
        }
    })
}

#[test]
fn answers_are_those_of_the_vectors() {
    run("ipc-answer", true, |given, expected| {
        let (verb, id) = match given.text("verb") {
            "hello" => (HELLO, 0),
            verb => {
                let asked = request(verb, Some(target("u", "v")), 1);
                (asked.verb(), given.u32("id"))
            }
        };
        match expected {
            Expected::Out(out) => {
                let (answer, message) = (answer(given), out.bytes("message"));
                assert_eq!(encode_answer(verb, id, &answer).as_slice(), message);
                assert_eq!(decode_answer(verb, id, &message), Ok(answer));
            }
            Expected::Refused => {
                assert!(decode_answer(verb, id, &given.bytes("message")).is_err());
            }
        }
    });
}
