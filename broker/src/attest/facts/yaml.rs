//! YAML from pods and manifests, cut down to what JSON can say.
//!
//! No anchors, aliases, merge keys, unknown tags, includes or second documents; bounded depth; no key twice.

use serde::de::DeserializeOwned;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};

/// The most nodes of a document; its caller bounds the bytes.
const MAX_NODES: usize = 100_000;

/// Parses one document that nests at most `depth` levels.
///
/// # Errors
/// One line on what is wrong and where; it may repeat a little of the text.
pub(in crate::attest) fn parse_yaml<T: DeserializeOwned>(
    text: &str,
    depth: usize,
) -> Result<T, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: depth,
            flow_nesting_limit: depth,
            max_documents: 1,
            max_anchors: 0,
            max_aliases: 0,
            max_merge_keys: 0,
            max_nodes: MAX_NODES,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        ignore_binary_tag_for_string: true,
        emit_comments: false,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let message = error.to_string();
        message
            .lines()
            .next()
            .unwrap_or("it is not YAML")
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(text: &str) -> Result<Value, String> {
        parse_yaml(text, 4)
    }

    #[test]
    fn plain_yaml_is_what_json_would_be() {
        let parsed =
            parse("- {path: a/b, optional: true}\n- path: 'c'\n  mode: \"0440\"\n").unwrap();
        assert_eq!(
            parsed,
            json!([{"path": "a/b", "optional": true}, {"path": "c", "mode": "0440"}])
        );
        assert_eq!(parse("mode: 0440").unwrap(), json!({"mode": "0440"}));
    }

    #[test]
    fn everything_that_only_yaml_has_is_refused() {
        for (what, text) in [
            ("an anchor", "a: &x 1"),
            ("an alias", "a: &x 1\nb: *x"),
            ("a merge key", "<<: {a: 1}\nb: 2"),
            ("a tag", "a: !secret b"),
            ("an include", "a: !include /etc/passwd"),
            ("a second document", "a: 1\n---\nb: 2"),
            ("a key twice", "a: 1\na: 2"),
            ("a fifth level", "[[[[[1]]]]]"),
            ("a NUL", "a: \"b\0\""),
            ("an open bracket", "[1, 2"),
        ] {
            let refused = parse(text);
            assert!(refused.is_err(), "{what}: {refused:?}");
            assert!(!refused.unwrap_err().contains('\n'), "{what}");
        }
    }
}
