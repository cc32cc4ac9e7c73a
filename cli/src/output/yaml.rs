//! A JSON value as YAML 1.2, block style.
//!
//! Scalars and odd keys are written as JSON writes them, which YAML 1.2 reads the same way (section 1.3 of its
//! specification); so no text can turn into a number, a boolean or an anchor.

use serde_json::Value;

/// The whole document, with a newline at its end.
pub(super) fn document(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

/// Writes a value that begins at the start of a line, indented by `depth` levels.
fn block(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                indent(depth, text);
                text.push_str(&self::key(key));
                text.push(':');
                child(value, depth, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                indent(depth, text);
                text.push('-');
                element(item, depth, text);
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => {
            indent(depth, text);
            text.push_str(&value.to_string());
            text.push('\n');
        }
    }
}

/// What follows `key:`.
fn child(value: &Value, depth: usize, text: &mut String) {
    if is_scalar(value) {
        text.push(' ');
        text.push_str(&value.to_string());
        text.push('\n');
    } else {
        text.push('\n');
        block(value, depth + 1, text);
    }
}

/// What follows `-`: a map's first key stands on the same line.
fn element(value: &Value, depth: usize, text: &mut String) {
    if is_scalar(value) {
        return child(value, depth, text);
    }
    let mut nested = String::new();
    block(value, depth + 1, &mut nested);
    text.push(' ');
    text.push_str(nested.trim_start_matches(' '));
}

fn is_scalar(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn key(key: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c == '_';
    // Words that YAML 1.1 readers take for booleans or null are quoted too.
    if !key.is_empty()
        && key.chars().all(plain)
        && !matches!(
            key,
            "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null"
        )
    {
        key.to_owned()
    } else {
        Value::from(key).to_string()
    }
}

fn indent(depth: usize, text: &mut String) {
    text.extend(std::iter::repeat_n("  ", depth));
}
