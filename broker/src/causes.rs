//! An error with what it came from, in one line, for the log and for operators.

use std::error::Error;

/// The error's words, then those of its sources, with colons between.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
