//! Free text of a pod, made fit for one line of a message.

use std::fmt;

/// The most bytes of the text that are shown.
const SHOWN_BYTES: usize = 96;

/// Text in double quotes: cut when it is long, with what is not printable escaped.
///
/// It keeps no more than it shows, so a message of ours cannot grow with what a pod writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted(Box<str>);

impl Quoted {
    /// Quotes a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let (shown, cut) = match text.get(text.floor_char_boundary(SHOWN_BYTES)..) {
            Some("") | None => (text, ""),
            Some(rest) => (text.strip_suffix(rest).unwrap_or_default(), "..."),
        };
        Self(format!("\"{}{cut}\"", shown.escape_debug()).into())
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stays_on_its_line() {
        assert_eq!(
            Quoted::new("a\nb\0\u{2028}\u{202e}\"").to_string(),
            r#""a\nb\0\u{2028}\u{202e}\"""#
        );
        assert_eq!(Quoted::new("").to_string(), "\"\"");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let shown = Quoted::new(&"é".repeat(4096)).to_string();
        assert_eq!(shown, format!("\"{}...\"", "é".repeat(SHOWN_BYTES / 2)));
        assert_eq!(
            Quoted::new(&"a".repeat(SHOWN_BYTES)).to_string().len(),
            SHOWN_BYTES + 2
        );
    }
}
