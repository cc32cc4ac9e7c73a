//! This crate writes its own lint table, because it alone may expect `unsafe_code`. The table must stay the
//! workspace's, but for the two lines that are about unsafe code.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use toml::{Table, Value};

#[test]
fn the_lint_table_is_the_workspaces_but_for_unsafe_code() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = lints(&here.join("Cargo.toml"), &["lints"]);
    let mut expected = lints(&here.join("../Cargo.toml"), &["workspace", "lints"]);

    let rust = expected.get_mut("rust").unwrap().as_table_mut().unwrap();
    let forbidden = rust.insert("unsafe_code".into(), Value::from("deny"));
    assert_eq!(
        forbidden,
        Some(Value::from("forbid")),
        "the workspace forbids unsafe code"
    );
    let extra = rust.insert("unsafe_op_in_unsafe_fn".into(), Value::from("deny"));
    assert_eq!(extra, None, "this line is ours alone");

    assert_eq!(own, expected);
}

fn lints(manifest: &Path, keys: &[&str]) -> Table {
    let text = fs::read_to_string(manifest).unwrap();
    let mut table: Table = text.parse().unwrap();
    for key in keys {
        table = table.remove(*key).unwrap().as_table().unwrap().clone();
    }
    table
}
