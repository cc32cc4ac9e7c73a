//! Request fields into types: each parser names the field and the mend.
//!
//! Everything that comes in by an RPC passes through here once and is never checked again behind.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

use attache_mtls::spiffe::{OperatorId, TrustDomain};
use attache_proto::attache::v1 as pb;
use jiff::Timestamp;

use super::rpc_error::RpcError;

/// A page holds at most this many items.
const PAGE_MAX: u32 = 500;
/// What size 0 means.
const PAGE_DEFAULT: u32 = 100;
/// A page token is never longer than this, in bytes.
const TOKEN_MAX: usize = 1024;
/// Notes and reasons are never longer than this, in bytes.
pub const NOTE_MAX: usize = 1024;

/// A page as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// 1 to 500.
    pub size: usize,
    /// Items after this key; none: from the first.
    pub after: Option<String>,
}

/// A text field that parses into a type of ours.
///
/// # Errors
/// INVALID_ARGUMENT with the field; the type's own words say what is right.
pub fn parse<T>(field: &str, text: &str) -> Result<T, RpcError>
where
    T: FromStr,
    T::Err: Display,
{
    if text.is_empty() {
        return Err(missing(field));
    }
    text.parse()
        .map_err(|e: T::Err| RpcError::invalid(field, e.to_string()))
}

/// The field `name` of an operator, as an identity of this trust domain.
///
/// # Errors
/// INVALID_ARGUMENT with the field.
pub fn operator_id(domain: &TrustDomain, name: &str) -> Result<OperatorId, RpcError> {
    if name.is_empty() {
        return Err(missing("name"));
    }
    OperatorId::new(domain.clone(), name).map_err(|e| RpcError::invalid("name", e.to_string()))
}

/// As [`parse`], for a field that may be left empty.
///
/// # Errors
/// As [`parse`].
pub fn optional<T>(field: &str, text: &str) -> Result<Option<T>, RpcError>
where
    T: FromStr,
    T::Err: Display,
{
    (!text.is_empty()).then(|| parse(field, text)).transpose()
}

/// INVALID_ARGUMENT for a field that is not there.
#[must_use]
pub fn missing(field: &str) -> RpcError {
    RpcError::invalid(field, "is missing; every request of this kind has it")
}

/// A message field that must be there.
///
/// # Errors
/// INVALID_ARGUMENT with the field.
pub fn required<T>(field: &str, value: Option<T>) -> Result<T, RpcError> {
    value.ok_or_else(|| missing(field))
}

/// A bytes field of fixed length.
///
/// # Errors
/// INVALID_ARGUMENT with the field and both lengths.
pub fn fixed<const N: usize>(field: &str, bytes: &[u8]) -> Result<[u8; N], RpcError> {
    bytes
        .try_into()
        .map_err(|_| RpcError::invalid(field, format!("must be {N} bytes, and is {}", bytes.len())))
}

/// A free text: a note, a reason. May be empty.
///
/// # Errors
/// INVALID_ARGUMENT with the field when it is too long or has control characters.
pub fn note(field: &str, text: String) -> Result<String, RpcError> {
    if text.len() > NOTE_MAX {
        return Err(RpcError::invalid(
            field,
            format!("is longer than {NOTE_MAX} bytes; shorten it"),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(RpcError::invalid(
            field,
            "contains a control character (NUL, tab or a line's end); remove it",
        ));
    }
    Ok(text)
}

/// A setting in seconds: 0 for none, or one of `range`.
///
/// # Errors
/// INVALID_ARGUMENT with the field and what may be.
pub fn setting_s(field: &str, seconds: u32, range: RangeInclusive<u32>) -> Result<u32, RpcError> {
    if seconds == 0 || range.contains(&seconds) {
        return Ok(seconds);
    }
    let (least, most) = range.into_inner();
    Err(RpcError::invalid(
        field,
        format!("must be from {least} to {most} seconds, or 0 for none, and is {seconds}"),
    ))
}

/// A page request; an absent one is the first page.
///
/// # Errors
/// INVALID_ARGUMENT when the size is over 500 or the token is not one that a page had.
pub fn page(page: Option<pb::Page>) -> Result<PageRequest, RpcError> {
    let page = page.unwrap_or_default();
    if page.size > PAGE_MAX {
        return Err(RpcError::invalid(
            "page.size",
            format!("must be at most {PAGE_MAX} (0 means {PAGE_DEFAULT})"),
        ));
    }
    let size = if page.size == 0 {
        PAGE_DEFAULT
    } else {
        page.size
    };
    let after = match page.token.as_str() {
        "" => None,
        token if token.len() > TOKEN_MAX => return Err(bad_token()),
        token => {
            let key = hex::decode(token).map_err(|_| bad_token())?;
            Some(String::from_utf8(key).map_err(|_| bad_token())?)
        }
    };
    Ok(PageRequest {
        size: usize::try_from(size).unwrap_or(usize::MAX),
        after,
    })
}

/// The key that a page token holds, as the type that the list is ordered by.
///
/// # Errors
/// INVALID_ARGUMENT when it is the token of another list.
pub fn after<T: FromStr>(token: Option<&str>) -> Result<Option<T>, RpcError> {
    token.map(str::parse).transpose().map_err(|_| {
        RpcError::invalid(
            "page.token",
            "is not a token of this list; leave it empty for the first page",
        )
    })
}

/// The token of the page after the item with this key.
#[must_use]
pub fn page_token(last_key: Option<&str>) -> String {
    last_key.map(hex::encode).unwrap_or_default()
}

/// A time off the wire.
///
/// # Errors
/// INVALID_ARGUMENT with the field when it lies outside of what a calendar has.
pub fn point(field: &str, time: pb::Time) -> Result<Timestamp, RpcError> {
    Timestamp::from_millisecond(time.unix_ms).map_err(|_| {
        let field = format!("{field}.unix_ms");
        RpcError::invalid(field, "is no time between the years -9999 and 9999")
    })
}

/// A time as it goes on the wire.
#[must_use]
pub fn time(at: Timestamp) -> Option<pb::Time> {
    Some(pb::Time {
        unix_ms: at.as_millisecond(),
    })
}

/// A time in milliseconds since 1970 as it goes on the wire.
#[must_use]
pub fn time_ms(at_ms: u64) -> Option<pb::Time> {
    Some(pb::Time {
        unix_ms: i64::try_from(at_ms).unwrap_or(i64::MAX),
    })
}

fn bad_token() -> RpcError {
    RpcError::invalid(
        "page.token",
        "is not a token that a page ended with; leave it empty for the first page",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Expected, Fields, run};

    #[test]
    fn page_tokens_are_those_of_the_vectors() {
        run("page-token", true, |given, expected| {
            let token = |fields: &Fields| pb::Page {
                size: 1,
                token: fields.text("token").to_owned(),
            };
            match expected {
                Expected::Out(out) => {
                    let last = given.text("last");
                    assert_eq!(page_token(Some(last)), out.text("token"));
                    let asked = page(Some(token(&out))).unwrap();
                    assert_eq!(asked.after.as_deref(), Some(last));
                }
                Expected::Refused => assert!(page(Some(token(given))).is_err()),
            }
        });
    }

    #[test]
    fn pages_are_bounded_and_tokens_round_trip() {
        assert_eq!(
            page(None).unwrap(),
            PageRequest {
                size: 100,
                after: None
            }
        );
        let token = page_token(Some("payments/db"));
        let asked = page(Some(pb::Page { size: 500, token })).unwrap();
        assert_eq!(
            asked,
            PageRequest {
                size: 500,
                after: Some("payments/db".to_owned())
            }
        );
        for bad in [
            pb::Page {
                size: 501,
                token: String::new(),
            },
            pb::Page {
                size: 1,
                token: "zz".into(),
            },
            pb::Page {
                size: 1,
                token: "ff".into(),
            },
            pb::Page {
                size: 1,
                token: "a".repeat(2000),
            },
        ] {
            assert!(page(Some(bad)).is_err());
        }
        assert_eq!(page_token(None), "");
    }

    #[test]
    fn fields_are_named() {
        assert!(
            fixed::<16>("secret", &[0; 15])
                .unwrap_err()
                .message()
                .starts_with("secret: must be 16 bytes")
        );
        assert_eq!(
            parse::<u8>("depth", "").unwrap_err().message(),
            "depth: is missing; every request of this kind has it"
        );
        assert!(
            parse::<u8>("depth", "x")
                .unwrap_err()
                .message()
                .starts_with("depth: ")
        );
        assert!(required::<u8>("mutation", None).is_err());
        assert!(note("note", "a\nb".into()).is_err());
        assert!(note("note", "a".repeat(NOTE_MAX + 1)).is_err());
        assert_eq!(note("note", "fine".into()).unwrap(), "fine");
    }
}
