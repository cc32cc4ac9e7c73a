//! Tests of the rows.

use super::super::{Condition, GrantSpec, GuardrailSpec};
use super::*;

fn grant(fields: &[&str]) -> GrantRecord {
    let fields = fields.iter().map(|field| field.parse().unwrap()).collect();
    let spec = GrantSpec::new(
        "web-db".parse().unwrap(),
        "payments/eu/db".parse().unwrap(),
        fields,
        "local/shop/web/app".parse().unwrap(),
    );
    let created_by = "spiffe://example.internal/operator/ann".into();
    GrantRecord {
        spec: spec.unwrap(),
        created_ms: 1_800_000_000_000,
        created_by,
    }
}

fn guardrail(condition: Condition) -> GuardrailRecord {
    let name = condition.word().parse().unwrap();
    let created_by = "spiffe://example.internal/broker/broker-0".into();
    GuardrailRecord {
        spec: GuardrailSpec { name, condition },
        created_ms: 7,
        created_by,
    }
}

#[test]
fn rows_survive_their_encoding() {
    for record in [grant(&[]), grant(&["username", "password"])] {
        assert_eq!(
            GrantRecord::decode("web-db", &record.encode()).unwrap(),
            record
        );
    }
    for record in Condition::ALL.map(guardrail) {
        let name = record.spec.name.as_str();
        assert_eq!(
            GuardrailRecord::decode(name, &record.encode()).unwrap(),
            record
        );
    }
}

#[test]
fn a_cut_or_lengthened_row_is_refused() {
    let (grant, guardrail) = (
        grant(&["a", "b"]).encode(),
        guardrail(Condition::NonRoot).encode(),
    );
    for end in 0..grant.len() {
        assert!(
            GrantRecord::decode("web-db", &grant[..end]).is_err(),
            "cut at {end}"
        );
    }
    for end in 0..guardrail.len() {
        assert!(
            GuardrailRecord::decode("non-root", &guardrail[..end]).is_err(),
            "cut at {end}"
        );
    }
    assert!(GrantRecord::decode("web-db", &[grant, vec![0]].concat()).is_err());
    assert!(GuardrailRecord::decode("non-root", &[guardrail, vec![0]].concat()).is_err());
}

#[test]
fn a_row_that_nothing_would_write_is_refused() {
    let row = |keyspace: &str, fields: &[&str], to: &str| {
        let fields: Vec<Lp> = fields.iter().map(|field| Lp::new().str(field)).collect();
        Lp::record()
            .str(keyspace)
            .str("db")
            .list(fields)
            .str(to)
            .u64(1)
            .str("by")
            .into_bytes()
    };
    let to = "local/shop/web/app";
    assert!(GrantRecord::decode("g", &row("payments", &["a", "b"], to)).is_ok());
    for (what, bad) in [
        ("a keyspace", row("Payments", &[], to)),
        ("an order", row("payments", &["b", "a"], to)),
        ("a field twice", row("payments", &["a", "a"], to)),
        ("a field", row("payments", &["#"], to)),
        ("a workload", row("payments", &[], "local/shop/web")),
        ("a group", row("payments", &[], "@prod/shop/web/app")),
        ("too many fields", row("payments", &vec!["a"; 65], to)),
    ] {
        assert!(GrantRecord::decode("g", &bad).is_err(), "{what}");
    }
    assert!(GrantRecord::decode("Not a name", &row("payments", &[], to)).is_err());
    let unknown = Lp::record().str("root").u64(1).str("by").into_bytes();
    assert!(GuardrailRecord::decode("g", &unknown).is_err());
}
