//! Reading the vector files of this folder: the one reader for the tests of every crate, which take it in by its path.

#![allow(
    dead_code,
    reason = "each crate reads those kinds of fields that its vectors have"
)]

use std::fmt::Debug;
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::Value;

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/independent/vectors")
}

/// One object of a vector file: a case's `in` or `out`, or an element of a list in it.
pub(crate) struct Fields(Value);

/// What a case expects.
pub(crate) enum Expected {
    Out(Fields),
    Refused,
}

/// Runs `check` on every case of a file, and makes sure that there were as many kinds as there should be.
pub(crate) fn run(file: &str, refusals: bool, check: impl Fn(&Fields, Expected)) {
    let text = std::fs::read_to_string(folder().join(format!("{file}.json"))).unwrap();
    let whole: Value = serde_json::from_str(&text).unwrap();
    let (mut answers, mut refused) = (0, 0);
    for case in whole["cases"].as_array().unwrap() {
        println!("{file}: {}", case["name"]);
        let given = Fields(case["in"].clone());
        match (case.get("out"), case.get("refused")) {
            (Some(out), None) => {
                answers += 1;
                check(&given, Expected::Out(Fields(out.clone())));
            }
            (None, Some(_)) => {
                refused += 1;
                check(&given, Expected::Refused);
            }
            _ => panic!("a case has either out or refused"),
        }
    }
    assert!(answers > 0, "{file} has no answer");
    assert_eq!(refused > 0, refusals, "{file}: refusals");
}

impl Fields {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some()
    }

    pub(crate) fn value(&self, name: &str) -> &Value {
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("the vector has no {name}"))
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.value(name).as_str().unwrap()
    }

    pub(crate) fn parse<T: FromStr<Err: Debug>>(&self, name: &str) -> T {
        self.text(name).parse().unwrap()
    }

    pub(crate) fn u64(&self, name: &str) -> u64 {
        self.value(name).as_u64().unwrap()
    }

    pub(crate) fn u32(&self, name: &str) -> u32 {
        self.u64(name).try_into().unwrap()
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        hex::decode(self.text(name)).unwrap()
    }

    pub(crate) fn array<const N: usize>(&self, name: &str) -> [u8; N] {
        self.bytes(name).try_into().unwrap()
    }

    pub(crate) fn id<T: From<[u8; 16]>>(&self, name: &str) -> T {
        T::from(self.array(name))
    }

    /// An object, or none for `null`.
    pub(crate) fn object(&self, name: &str) -> Option<Self> {
        let value = self.value(name);
        (!value.is_null()).then(|| Self(value.clone()))
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.value(name).as_bool().unwrap()
    }

    pub(crate) fn list(&self, name: &str) -> Vec<Self> {
        let list = self.value(name).as_array().unwrap();
        list.iter().cloned().map(Self).collect()
    }

    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        let list = self.value(name).as_array().unwrap();
        list.iter()
            .map(|text| text.as_str().unwrap().to_owned())
            .collect()
    }
}
