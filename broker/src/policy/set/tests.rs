//! Tests of decisions: against a naive reference, and threats E1 (another tenant's secret) and E2 (a policy that fails).

use std::collections::BTreeSet;

use attache_envelope::generation::Owner;
use cedar_policy::{Policy, PolicyId};
use proptest::prelude::*;

use super::*;
use crate::attest::testdata::{
    AUDIENCE, ISSUER, Issuer, NODE_UID, claims, node, node_id, now, pod, request,
};
use crate::attest::{Attestor, ClusterRegistry, ClusterSpec, Posture, RefusalKind};

fn facts(workload: &str, uid: u32) -> WorkloadFacts {
    WorkloadFacts {
        workload: workload.parse().unwrap(),
        image: Some("registry.example/web@sha256:00".into()),
        posture: Posture {
            owner: Owner { uid, gid: None },
            host_users: true,
            privilege_escalation: true,
            excess: None,
        },
    }
}

fn grant(name: &str, secret: &str, fields: &[&str], to: &str) -> GrantSpec {
    let fields = fields.iter().map(|field| field.parse().unwrap()).collect();
    GrantSpec::new(
        name.parse().unwrap(),
        secret.parse().unwrap(),
        fields,
        to.parse().unwrap(),
    )
    .unwrap()
}

fn field(text: &str) -> FieldRef {
    let (secret, field) = text.split_once('#').unwrap();
    FieldRef {
        secret: secret.parse().unwrap(),
        field: field.parse().unwrap(),
    }
}

fn guardrails() -> Vec<GuardrailSpec> {
    let all = Condition::ALL.into_iter();
    all.map(|condition| GuardrailSpec {
        name: condition.word().parse().unwrap(),
        condition,
    })
    .collect()
}

fn set(grants: impl IntoIterator<Item = GrantSpec>) -> PolicySet {
    PolicySet::new(guardrails(), grants).unwrap()
}

/// Which of the fields are granted.
fn granted(set: &PolicySet, facts: &WorkloadFacts, fields: &[&str]) -> Vec<bool> {
    let fields: Vec<FieldRef> = fields.iter().map(|text| field(text)).collect();
    let decisions = set.decide_facts(facts, &fields).unwrap();
    assert_eq!(decisions.len(), fields.len());
    decisions
        .iter()
        .map(|decision| matches!(decision, Decision::Grant(_)))
        .collect()
}

const APP: &str = "local/shop/web/app";

#[test]
fn a_grant_is_for_its_secret_its_fields_and_its_workload() {
    let set = set([
        grant("all", "payments/db", &[], APP),
        grant("one", "payments/api", &["token"], APP),
    ]);
    let app = facts(APP, 1000);
    let asked = [
        "payments/db#password",
        "payments/api#token",
        "payments/api#other",
        "payments/dbx#password",
        "other/db#password",
    ];
    assert_eq!(
        granted(&set, &app, &asked),
        [true, true, false, false, false]
    );
    for other in [
        "local/shop/web/sidecar",
        "local/shop/db/app",
        "local/other/web/app",
        "prod/shop/web/app",
    ] {
        assert_eq!(
            granted(&set, &facts(other, 1000), &asked),
            [false; 5],
            "{other}"
        );
    }
    assert!(set.decide_facts(&app, &[]).unwrap().is_empty());
}

#[test]
fn a_grant_names_the_policies_that_made_it() {
    let set = set([
        grant("b", "payments/db", &[], APP),
        grant("a", "payments/db", &["password", "username"], APP),
        grant("c", "payments/db", &[], "local/shop/db/app"),
    ]);
    let decisions = set
        .decide_facts(&facts(APP, 1000), &[field("payments/db#password")])
        .unwrap();
    let [Decision::Grant(grant)] = &decisions[..] else {
        panic!("{decisions:?}")
    };
    assert_eq!(grant.policies(), ["grant/a#password", "grant/b"]);
    assert_eq!(grant.field(), &field("payments/db#password"));
}

/// Over a real folder and a really signed token: nothing else makes an attested workload.
#[tokio::test]
async fn an_attested_workload_reads_what_is_granted_to_it() {
    let (dir, issuer) = (tempfile::tempdir().unwrap(), Issuer::p256());
    for (folder, file, object) in [
        ("", "jwks.json", issuer.jwks()),
        ("nodes", "node-a.json", node("node-a", NODE_UID)),
        ("pods/shop", "web-0.json", pod()),
    ] {
        let folder = dir.path().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(file), object.to_string()).unwrap();
    }
    let clusters = ClusterRegistry::default();
    let local = ClusterSpec::in_folder("local".parse().unwrap(), ISSUER, AUDIENCE, dir.path());
    clusters.replace([local.unwrap()]);
    let (node, asked) = (node_id(NODE_UID), request(issuer.mint(&claims())));
    let attestor = Attestor::new(Arc::new(clusters));
    let workload = attestor.attest(&node, &asked, now()).await.unwrap();

    let set = set([grant("one", "payments/db", &["password"], APP)]);
    let fields = [field("payments/db#password"), field("payments/db#username")];
    let decisions = set.decide(&workload, &fields).unwrap();
    let [Decision::Grant(grant), Decision::Denial { true_reason }] = &decisions[..] else {
        panic!("{decisions:?}")
    };
    assert_eq!(grant.policies(), ["grant/one#password"]);
    assert_eq!(true_reason, "no grant permits it");
}

#[test]
fn a_set_tells_its_guard_rails_and_each_says_what_it_demands() {
    assert_eq!(set([]).guardrails(), guardrails());
    let said = guardrails()
        .iter()
        .map(|rail| format!("{}: {}", rail.condition, rail.condition.demands()))
        .collect::<Vec<_>>();
    assert!(said[0].starts_with("non-root: the container runs as a numeric user that is not 0"));
    assert!(said[1].starts_with("unprivileged: no container of the pod is privileged"));
}

#[test]
fn e1_another_tenants_secret_is_denied() {
    let set = set([
        grant("shop", "shop/db", &[], APP),
        grant("bank", "bank/db", &[], "local/bank/api/app"),
    ]);
    assert_eq!(
        granted(&set, &facts(APP, 1000), &["shop/db#x", "bank/db#x"]),
        [true, false]
    );
    assert_eq!(
        granted(
            &set,
            &facts("local/bank/web/app", 1000),
            &["shop/db#x", "bank/db#x"]
        ),
        [false, false]
    );
}

#[test]
fn without_grants_everything_is_denied() {
    assert_eq!(
        granted(&set([]), &facts(APP, 1000), &["payments/db#password"]),
        [false]
    );
    let nothing = PolicySet::new(vec![], []).unwrap();
    assert_eq!(
        granted(&nothing, &facts(APP, 1000), &["payments/db#password"]),
        [false]
    );
}

#[test]
fn a_guard_rail_denies_whatever_is_granted_and_names_the_mend() {
    let set = set([grant("all", "payments/db", &[], APP)]);
    let root = facts(APP, 0);
    let line =
        "container app runs as root; set securityContext.runAsUser to a number that is not 0";
    for fields in [
        vec![field("payments/db#password")],
        vec![field("absent/secret#x")],
        vec![],
    ] {
        let refusal = set.decide_facts(&root, &fields).unwrap_err();
        assert_eq!(
            refusal.public().line(),
            line,
            "absent, not granted and granted read the same"
        );
        assert_eq!(refusal.kind(), RefusalKind::PermissionDenied);
        assert_eq!(refusal.policies(), ["guardrail/non-root"]);
    }
    let mut own_users = root;
    own_users.posture.host_users = false;
    assert_eq!(granted(&set, &own_users, &["payments/db#password"]), [true]);

    let without = PolicySet::new(vec![], [grant("all", "payments/db", &[], APP)]).unwrap();
    assert_eq!(
        granted(&without, &facts(APP, 0), &["payments/db#password"]),
        [true],
        "the guard rail it was"
    );
}

#[test]
fn a_privileged_pod_is_denied_with_what_makes_it_so() {
    let set = set([grant("all", "payments/db", &[], APP)]);
    let mut facts = facts(APP, 1000);
    facts.posture.excess = Some(crate::attest::Excess::privileged(
        "sidecar".parse().unwrap(),
    ));
    let refusal = set
        .decide_facts(&facts, &[field("payments/db#password")])
        .unwrap_err();
    assert_eq!(
        refusal.public().line(),
        "container sidecar is privileged; remove securityContext.privileged"
    );
    assert_eq!(refusal.policies(), ["guardrail/unprivileged"]);
    facts.posture.owner.uid = 0;
    let refusal = set.decide_facts(&facts, &[]).unwrap_err();
    assert!(
        refusal.public().line().contains("runs as root"),
        "the order is fixed"
    );
    assert_eq!(
        refusal.policies(),
        ["guardrail/non-root", "guardrail/unprivileged"]
    );
}

/// A set in which a policy was put that no verb of ours writes.
fn with_policy(id: &str, text: &str, everywhere: bool) -> PolicySet {
    let mut set = set([grant("all", "payments/db", &[], APP)]);
    let policy = Policy::parse(Some(PolicyId::new(id)), text).unwrap();
    if everywhere {
        Arc::make_mut(&mut set.forbids).add(policy).unwrap();
    } else {
        let keyspace = set.keyspaces.values().next().unwrap();
        let of_secret = keyspace.values().next().unwrap();
        let grants = of_secret.grants.iter().map(|grant| &**grant);
        let mut permits = set.language.permits(&set.forbids, grants).unwrap();
        permits.add(policy).unwrap();
        assert!(of_secret.compiled.set(Ok(permits)).is_ok());
    }
    set
}

/// What Cedar itself says of an erroring forbid: it is passed over, and the permit wins.
#[test]
fn e2_any_policy_that_fails_denies() {
    let app = facts(APP, 1000);
    let asked = [field("payments/db#password")];
    for (what, text) in [
        (
            "a missing attribute",
            "forbid (principal, action, resource) when { principal.missing };",
        ),
        (
            "a missing attribute of a permit",
            "permit (principal, action, resource) when { principal.missing == 1 };",
        ),
        (
            "another type",
            "forbid (principal, action, resource) when { principal.image > 1 };",
        ),
        (
            "an overflow",
            "forbid (principal, action, resource) when { principal.ownerUid + 9223372036854775807 > 0 };",
        ),
        (
            "a missing entity",
            "forbid (principal, action, resource) when { Attache::Secret::\"x\".owner == \"y\" };",
        ),
    ] {
        let set = with_policy("broken", text, false);
        let compiled = set.permits(&asked[0].secret).unwrap();
        let entities = set.language.entities(&app, &asked).unwrap();
        let answer = set
            .language
            .ask(compiled, &entities, &app, Some(&asked[0]))
            .unwrap();
        assert!(
            answer.allowed,
            "{what}: Cedar allows it, so it is the check of errors that denies"
        );
        let decisions = set.decide_facts(&app, &asked).unwrap();
        let [Decision::Denial { true_reason }] = &decisions[..] else {
            panic!("{what}: {decisions:?}")
        };
        assert!(true_reason.contains("broken"), "{what}: {true_reason}");

        if text.starts_with("forbid") {
            let refusal = with_policy("broken", text, true)
                .decide_facts(&app, &asked)
                .unwrap_err();
            assert_eq!(refusal.public(), &PublicReason::PolicyFailed, "{what}");
            assert!(refusal.true_reason().contains("broken"), "{what}");
        }
    }
}

#[test]
fn a_forbid_that_is_no_guard_rail_denies_too() {
    let set = with_policy("other", "forbid (principal, action, resource);", true);
    let refusal = set.decide_facts(&facts(APP, 1000), &[]).unwrap_err();
    assert_eq!(refusal.public(), &PublicReason::PolicyFailed);
    assert_eq!(refusal.policies(), ["other"]);
    let set = with_policy("other", "forbid (principal, action, resource);", false);
    assert_eq!(
        granted(&set, &facts(APP, 1000), &["payments/db#password"]),
        [false]
    );
}

#[test]
fn policies_are_validated_strictly() {
    let language = Language::new().unwrap();
    for bad in [
        "forbid (principal, action, resource) unless { principal.nonroot };",
        "forbid (principal, action, resource) unless { principal.nonRoot == 1 };",
        "forbid (principal, action, resource) when { principal.image };",
        "permit (principal, action == Attache::Action::\"write\", resource);",
        "permit (principal, action, resource) when { context.time > 1 };",
    ] {
        let mut set = cedar_policy::PolicySet::new();
        set.add(Policy::parse(None, bad).unwrap()).unwrap();
        assert!(
            matches!(language.validate(&set), Err(PolicyError::Invalid { .. })),
            "{bad}"
        );
    }
    let twice = vec![guardrails().remove(0), guardrails().remove(0)];
    assert!(matches!(
        PolicySet::new(twice, []).err(),
        Some(PolicyError::Set { .. })
    ));
}

/// What is asked of Cedar is what the schema says: every attribute is there and of its type.
#[test]
fn entities_conform_to_the_schema() {
    let language = Language::new().unwrap();
    let mut bare = facts(APP, 0);
    bare.image = None;
    for facts in [facts(APP, 1000), bare] {
        let entities = language
            .entities(&facts, &[field("payments/db#password")])
            .unwrap();
        let checked = cedar_policy::Entities::from_entities(
            entities.iter().cloned(),
            Some(language.schema()),
        );
        assert!(checked.is_ok(), "{checked:?}");
    }
}

#[test]
fn a_group_of_clusters_is_refused_by_name() {
    let to = "@prod/shop/web/app".parse().unwrap();
    let refused =
        GrantSpec::new("g".parse().unwrap(), "a/b".parse().unwrap(), vec![], to).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("to: the cluster group @prod does not exist"),
        "{refused}"
    );
    let field = |name: &str| name.parse().unwrap();
    let make = |fields| {
        GrantSpec::new(
            "g".parse().unwrap(),
            "a/b".parse().unwrap(),
            fields,
            APP.parse().unwrap(),
        )
    };
    assert!(make(vec![field("x"), field("x")]).is_err());
    assert!(make((0..64).map(|n| field(&format!("f{n}"))).collect()).is_ok());
    assert!(make((0..65).map(|n| field(&format!("f{n}"))).collect()).is_err());
}

#[test]
fn a_change_leaves_the_other_keyspaces_as_they_are() {
    let before = set([
        grant("a", "one/db", &[], APP),
        grant("b", "two/db", &[], APP),
    ]);
    let app = facts(APP, 1000);
    assert_eq!(
        granted(&before, &app, &["one/db#x", "two/db#x"]),
        [true, true]
    );
    let added = before.with_grant(grant("c", "one/api", &[], APP)).unwrap();
    assert_eq!(
        granted(&added, &app, &["one/db#x", "one/api#x", "two/db#x"]),
        [true, true, true]
    );
    assert_eq!(
        granted(&before, &app, &["one/api#x"]),
        [false],
        "the set before is as it was"
    );
    let of = |set: &PolicySet, keyspace: &str| {
        Arc::clone(&set.keyspaces[&keyspace.parse::<Keyspace>().unwrap()])
    };
    assert!(Arc::ptr_eq(&of(&before, "two"), &of(&added, "two")));
    let removed = added.without_grant(&grant("a", "one/db", &[], APP));
    assert_eq!(
        granted(&removed, &app, &["one/db#x", "one/api#x", "two/db#x"]),
        [false, true, true]
    );
    let narrowed = added.with_grant(grant("a", "one/db", &["y"], APP)).unwrap();
    assert_eq!(
        granted(&narrowed, &app, &["one/db#x", "one/db#y"]),
        [false, true],
        "in place of the one before"
    );
}

fn workloads() -> impl Strategy<Value = String> {
    ("[ab]", "[ab]", "[ab]", "[ab]").prop_map(|(c, n, s, k)| format!("{c}/{n}/{s}/{k}"))
}

fn secrets() -> impl Strategy<Value = String> {
    ("[ab]", "[ab](/[ab])?").prop_map(|(keyspace, name)| format!("{keyspace}/{name}"))
}

proptest! {
    /// Against the plain reading of what a grant says.
    #[test]
    fn decisions_are_those_of_a_naive_reference(
        grants in prop::collection::vec((secrets(), prop::collection::btree_set("[xyz]", 0..3), workloads()), 0..12),
        removed in prop::collection::btree_set(0_usize..12, 0..4),
        workload in workloads(),
        asked in prop::collection::vec((secrets(), "[xyz]"), 0..6),
        uid in 0_u32..2,
        host_users: bool,
        with_guardrails: bool,
    ) {
        let specs: Vec<GrantSpec> = grants.iter().enumerate().map(|(n, (secret, fields, to))| {
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            grant(&format!("g{n}"), secret, &fields, to)
        }).collect();
        // Half of them from the start, half by changes, some taken away again.
        let (first, later) = specs.split_at(specs.len() / 2);
        let rails = if with_guardrails { guardrails() } else { vec![] };
        let mut set = PolicySet::new(rails, first.iter().cloned()).unwrap();
        for spec in later {
            set = set.with_grant(spec.clone()).unwrap();
        }
        let removed: BTreeSet<usize> = removed.into_iter().filter(|n| *n < specs.len()).collect();
        for n in &removed {
            set = set.without_grant(&specs[*n]);
        }

        let mut facts = facts(&workload, uid);
        facts.posture.host_users = host_users;
        let fields: Vec<FieldRef> = asked.iter().map(|(secret, name)| field(&format!("{secret}#{name}"))).collect();
        let decisions = set.decide_facts(&facts, &fields);
        if with_guardrails && uid == 0 && host_users {
            let refusal = decisions.unwrap_err();
            let is_root = matches!(refusal.public(), PublicReason::RunsAsRoot { .. });
            prop_assert!(is_root);
            return Ok(());
        }
        for ((secret, name), decision) in asked.iter().zip(decisions.unwrap()) {
            let expected: BTreeSet<String> = grants.iter().enumerate()
                .filter(|(n, (of, fields, to))| {
                    !removed.contains(n) && of == secret && *to == workload && (fields.is_empty() || fields.contains(name))
                })
                .map(|(n, (_, fields, _))| if fields.is_empty() { format!("grant/g{n}") } else { format!("grant/g{n}#{name}") })
                .collect();
            match decision {
                Decision::Grant(grant) => {
                    prop_assert_eq!(grant.policies().iter().cloned().collect::<BTreeSet<_>>(), expected);
                }
                Decision::Denial { .. } => prop_assert!(expected.is_empty()),
            }
        }
    }
}
