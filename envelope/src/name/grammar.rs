//! Names made of segments, and the error that all names share.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The most characters of a segment.
const SEGMENT_LIMIT: usize = 63;

/// The most segments of a secret's name, its keyspace not counted.
const NAME_SEGMENTS: usize = 3;

/// The most characters of a field's name.
const FIELD_LIMIT: usize = 128;

/// Text that is no name of its kind: which part, what is wrong, and the mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{part} {fault}")]
pub struct NameError {
    /// The part of the text, in the grammar's words.
    pub part: &'static str,
    /// What is wrong with it.
    pub fault: NameFault,
}

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameFault {
    /// Nothing stands there.
    #[error("is empty: give it a name")]
    Empty,
    /// It is too long.
    #[error("is longer than {limit} characters: shorten it")]
    TooLong {
        /// The most characters.
        limit: usize,
    },
    /// A character is not allowed where it stands.
    #[error("has {found:?} at character {at}: {allowed}")]
    Character {
        /// Which one, counted from 1.
        at: usize,
        /// The character.
        found: char,
        /// What may stand there.
        allowed: &'static str,
    },
    /// It has another number of segments.
    #[error("has the wrong number of parts: write {shape}")]
    Shape {
        /// What it should look like.
        shape: &'static str,
    },
    /// It is no version number.
    #[error("is no version: write a number from 1, without leading zeros")]
    Version,
    /// It is no key's epoch.
    #[error("is no epoch: write a number from 1, without leading zeros")]
    Epoch,
    /// It is no text of its fixed form.
    #[error("is not {shape}")]
    Form {
        /// What it should be.
        shape: &'static str,
    },
}

impl NameError {
    pub(super) const fn new(part: &'static str, fault: NameFault) -> Self {
        Self { part, fault }
    }
}

/// One rule for the characters of a part: the first, those that follow, the last, and how many.
pub(super) struct Rule {
    pub(super) first: fn(char) -> bool,
    pub(super) rest: fn(char) -> bool,
    pub(super) last: fn(char) -> bool,
    pub(super) limit: usize,
    pub(super) allowed: &'static str,
}

impl Rule {
    pub(super) fn check(&self, part: &'static str, text: &str) -> Result<(), NameError> {
        // Bytes bound characters, so a hostile text is not walked.
        if text.len() > self.limit {
            let limit = self.limit;
            return Err(NameError::new(part, NameFault::TooLong { limit }));
        }
        let Some(last) = text.chars().last() else {
            return Err(NameError::new(part, NameFault::Empty));
        };
        let refused = |at: usize, found| {
            let allowed = self.allowed;
            NameError::new(part, NameFault::Character { at, found, allowed })
        };
        for (index, found) in text.chars().enumerate() {
            let fits = if index == 0 { self.first } else { self.rest };
            if !fits(found) {
                return Err(refused(index + 1, found));
            }
        }
        if !(self.last)(last) {
            return Err(refused(text.chars().count(), last));
        }
        Ok(())
    }
}

const SEGMENT: Rule = Rule {
    first: is_lower,
    rest: is_segment,
    last: is_segment,
    limit: SEGMENT_LIMIT,
    allowed: "use a-z and 0-9, after the first also . _ -",
};

const FIELD: Rule = Rule {
    first: |c| c.is_ascii_alphanumeric() || c == '_',
    rest: |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'),
    last: |_| true,
    limit: FIELD_LIMIT,
    allowed: "use A-Z, a-z, 0-9 and _, after the first also . -",
};

pub(super) const fn is_lower(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

const fn is_segment(c: char) -> bool {
    is_lower(c) || matches!(c, '.' | '_' | '-')
}

/// A type over text that a check has passed.
macro_rules! name {
    ($(#[$doc:meta])+ $name:ident, $check:expr) => {
        $(#[$doc])+
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The text as it was parsed.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }
        }
    };
}
pub(super) use name;

name!(
    /// A keyspace: the first segment of a secret's path, the tenant.
    Keyspace,
    |text| SEGMENT.check("the keyspace", text)
);

name!(
    /// A secret's name within its keyspace: one to three segments.
    SecretName,
    |text| {
        let mut segments = 0;
        for segment in text.split('/') {
            segments += 1;
            if segments > NAME_SEGMENTS {
                let shape = "KEYSPACE/NAME with at most 4 segments in all";
                return Err(NameError::new("the name", NameFault::Shape { shape }));
            }
            SEGMENT.check("the name", segment)?;
        }
        Ok(())
    }
);

name!(
    /// A field of a secret.
    FieldName,
    |text| FIELD.check("the field", text)
);

name!(
    /// A cluster.
    ClusterName,
    |text| SEGMENT.check("the cluster", text)
);

name!(
    /// A group of clusters, without its `@`.
    ClusterGroup,
    |text| SEGMENT.check("the cluster group", text)
);

name!(
    /// A grant or guard rail.
    GrantName,
    |text| SEGMENT.check("the grant's name", text)
);

name!(
    /// A slot, as operators call it.
    SlotName,
    |text| SEGMENT.check("the slot's name", text)
);
