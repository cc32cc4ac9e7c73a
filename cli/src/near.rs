//! Suggestions: the known word that is nearest to one that is not known.

/// The nearest of `known` to `word`, if it is near enough to be a slip: at most a third of its letters differ.
#[must_use]
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // A hostile word must not cost more than a name can.
    if word.len() > 512 {
        return None;
    }
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(candidate, word), candidate))
        .filter(|(distance, candidate)| {
            *distance > 0 && *distance <= (candidate.chars().count() / 3).max(1)
        })
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_suggested_and_a_stranger_is_not() {
        let known = ["payments", "web", "billing"];
        assert_eq!(nearest("paymnets", known), Some("payments"));
        assert_eq!(nearest("wbe", known), Some("web"));
        assert_eq!(nearest("payments", known), None);
        assert_eq!(nearest("observability", known), None);
        assert_eq!(nearest(&"p".repeat(600), known), None);
        assert_eq!(nearest("x", []), None);
    }
}
