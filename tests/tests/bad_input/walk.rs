//! The walk: every field of every RPC, bent in every way, against the rows.

use std::collections::BTreeSet;

use attache_proto::details::Details;
use attache_tests::raw::{Method, Place, Tree, Types, call};
use tonic::{Code, Status, transport::Channel};

use crate::kinds::{CANARY, Kind, unknown};

/// What is demanded of the answer to one kind of bad input.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expect {
    /// Refused with this code and the field's name.
    Refused(Code),
    /// Refused with this code and these words in place of the field's name.
    Says(Code, &'static str),
    /// Accepted, and why that is right.
    Passes(&'static str),
    /// Not sent, and why.
    None(&'static str),
}

impl Expect {
    fn is_of(self, rows: Rows) -> bool {
        match self {
            Self::Refused(_) | Self::Says(..) => rows == Rows::Refused,
            Self::Passes(reason) => {
                assert!(!reason.is_empty());
                rows == Rows::Passing
            }
            Self::None(reason) => {
                assert!(!reason.is_empty());
                false
            }
        }
    }
}

const UNSERVED: Expect = Expect::Says(Code::Unimplemented, "is not served");
const NO_MESSAGE: Expect = Expect::Says(Code::InvalidArgument, "no whole message");

/// What a field takes: its answers to the kinds that the transport does not settle.
pub(crate) type Take = fn(Kind) -> Expect;

/// An answer that differs from the field's own: RPC (or `*`), row, kind.
pub(crate) type Exception = (&'static str, &'static str, Kind, Expect);

/// The rows of some packages.
pub(crate) struct Walk<'w> {
    pub(crate) types: &'w Types,
    pub(crate) rows: &'w [(&'static str, Take)],
    pub(crate) exceptions: &'w [Exception],
    /// Whether a field that is not known is refused.
    pub(crate) strict: bool,
    /// The RPCs that are not served: what can be decoded is answered UNIMPLEMENTED.
    pub(crate) unserved: &'w [&'static str],
}

/// Which rows are sent: what is accepted may change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    Refused,
    Passing,
}

impl Walk<'_> {
    /// Fails for a field without a row, a row without a field, and an exception that is about nothing.
    pub(crate) fn is_whole(&self) {
        let places: Vec<(&Method, Place)> = self
            .types
            .methods
            .iter()
            .flat_map(|method| {
                self.types
                    .places(&method.input)
                    .into_iter()
                    .map(move |p| (method, p))
            })
            .collect();
        let declared: BTreeSet<&str> = places.iter().map(|(_, place)| place.row.as_str()).collect();
        let rows: BTreeSet<&str> = self.rows.iter().map(|(row, _)| *row).collect();
        assert_eq!(rows.len(), self.rows.len(), "a row is there twice");
        let difference = |a: &BTreeSet<&str>, b: &BTreeSet<&str>| {
            a.difference(b).map(|s| (*s).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            difference(&declared, &rows),
            Vec::<String>::new(),
            "fields without a row"
        );
        assert_eq!(
            difference(&rows, &declared),
            Vec::<String>::new(),
            "rows without a field"
        );
        for (of, row, kind, _) in self.exceptions {
            let about = places
                .iter()
                .any(|(method, place)| (*of == "*" || *of == method.name) && place.row == *row);
            assert!(about, "no such field: {of} {row} {kind:?}");
        }
    }

    fn expect(&self, method: &Method, place: &Place, kind: Kind) -> Expect {
        let exception = self.exceptions.iter().find(|(of, row, of_kind, _)| {
            (*of == method.name || *of == "*") && *row == place.row && *of_kind == kind
        });
        if let Some((.., expect)) = exception {
            return *expect;
        }
        let take = self.rows.iter().find(|(row, _)| *row == place.row);
        let take = take.unwrap_or_else(|| panic!("{} has no row", place.row)).1;
        match kind {
            Kind::WrongType | Kind::NotUtf8 => Expect::Refused(Code::InvalidArgument),
            // A number that does not fit its type, or an enum's number without a name.
            Kind::TooLong if is_number(place) => Expect::Refused(Code::InvalidArgument),
            _ if self.unserved.contains(&method.name.as_str()) => UNSERVED,
            Kind::Unknown if !place.map && !is_number(place) => self.unknown(method),
            Kind::Missing
            | Kind::Empty
            | Kind::TooLong
            | Kind::Largest
            | Kind::Nul
            | Kind::Unknown => take(kind),
        }
    }

    fn unknown(&self, method: &Method) -> Expect {
        if self.unserved.contains(&method.name.as_str()) {
            UNSERVED
        } else if self.strict {
            Expect::Says(Code::InvalidArgument, "a field 30000 ")
        } else {
            Expect::Passes("its fields are not ours to add: who sends them may be newer")
        }
    }

    /// Sends every bad form of `good` of these rows; answers how many were sent, and adds what is wrong to `log`.
    pub(crate) async fn bend(
        &self,
        channel: &Channel,
        method: &Method,
        good: &Tree,
        rows: Rows,
        log: &mut Vec<String>,
    ) -> usize {
        let mut sent = 0;
        for place in self.types.places(&method.input) {
            for kind in Kind::ALL {
                let what = format!("{} {} {kind:?}", method.name, place.dotted);
                let inputs = match kind.bend(&place, good) {
                    Ok(inputs) => inputs,
                    Err(reason) => {
                        assert!(!reason.is_empty());
                        continue;
                    }
                };
                let expect = self.expect(method, &place, kind);
                if !expect.is_of(rows) {
                    continue;
                }
                for input in inputs {
                    sent += 1;
                    let answer = call(channel, method, vec![input.encode()]).await;
                    log.extend(
                        judge(expect, &place.dotted, &answer).map(|why| format!("{what}: {why}")),
                    );
                }
            }
        }
        let whole = [
            (
                "a field that nobody knows",
                self.unknown(method),
                vec![unknown(good).encode()],
            ),
            ("no message", NO_MESSAGE, vec![]),
        ];
        for (what, expect, messages) in whole {
            if expect.is_of(rows) {
                sent += 1;
                let answer = call(channel, method, messages).await;
                log.extend(
                    judge(expect, "", &answer).map(|why| format!("{}: {what}: {why}", method.name)),
                );
            }
        }
        sent
    }
}

fn is_number(place: &Place) -> bool {
    use prost_types::field_descriptor_proto::Type;
    !matches!(place.kind, Type::String | Type::Bytes | Type::Message)
}

/// What is wrong with an answer, if anything is.
pub(crate) fn judge(
    expect: Expect,
    dotted: &str,
    answer: &Result<Vec<u8>, Status>,
) -> Option<String> {
    let own_name = dotted.rsplit('.').next().unwrap_or(dotted);
    let (code, named) = match (expect, answer) {
        (Expect::Passes(_), Ok(_)) | (Expect::None(_), _) => return None,
        (Expect::Passes(_), Err(status)) => {
            return Some(format!("refused, and must pass: {status:?}"));
        }
        (Expect::Refused(_) | Expect::Says(..), Ok(_)) => {
            return Some("accepted, and must be refused".into());
        }
        (Expect::Refused(code), Err(_)) => (code, own_name),
        (Expect::Says(code, words), Err(_)) => (code, words),
    };
    let Err(status) = answer else { return None };
    let message = status.message();
    let field = Details::of(status).and_then(|details| details.field);
    let says = |problem: &str| {
        Some(format!(
            "{problem}: {:?} {message:?} (field {field:?})",
            status.code()
        ))
    };
    if status.code() != code {
        return says(&format!("must be {code:?}"));
    }
    if !message.contains(named) {
        return says(&format!("does not name {named}"));
    }
    if message.contains(CANARY) {
        return says("repeats what was sent");
    }
    if message.len() > 1024 || message.chars().any(char::is_control) {
        return says("is no line");
    }
    None
}
