//! One event of every kind, for the tests of this crate; where a kind has optional items, once with all and once
//! with none of them.

use super::*;

pub(crate) fn examples() -> Vec<Event> {
    let mut events = process();
    events.extend(sealing());
    events.extend(deliveries());
    events.extend(mutations());
    events.extend(identities());
    events
}

fn broker() -> String {
    "spiffe://example.internal/broker/broker-0".into()
}

fn node() -> String {
    "spiffe://example.internal/node/local/6f1b".into()
}

fn operator() -> String {
    "spiffe://example.internal/operator/ada".into()
}

pub(super) fn serial() -> Vec<u8> {
    vec![0x7f, 1, 2, 3]
}

fn process() -> Vec<Event> {
    let start = Start {
        broker: broker(),
        incarnation: 1,
        seq: 41,
        software: "0.1.0".into(),
        key_memory: "memfd_secret".into(),
    };
    vec![
        start.into(),
        Stop { broker: broker() }.into(),
        Cut {
            segment: 0,
            offset: 4096,
            bytes: 77,
            leaves: 1,
            size: 9,
        }
        .into(),
        Anchor {
            incarnation: 1,
            seq: 43,
            t: [15; 32],
        }
        .into(),
        Retirement {
            key: "payments@1".into(),
            values: 5_000,
        }
        .into(),
        Rotation {
            key: "payments@1".into(),
            reason: "it is 91 days old, and is to wrap for 90 at most".into(),
        }
        .into(),
        Succession {
            epoch: 2,
            before: [16; 32],
            after: [17; 32],
            endorsement: [18; 64],
        }
        .into(),
        Pruning {
            keyspace: "payments".into(),
            versions: vec!["payments/db@1".into(), "payments/db@2".into()],
            values: 3,
        }
        .into(),
        Removal {
            keyspace: "payments".into(),
            values: 5_000,
        }
        .into(),
    ]
}

/// What is about a broker's slots, and being sealed.
fn sealing() -> Vec<Event> {
    vec![
        Opening {
            broker: broker(),
            slot: "board (7a0c)".into(),
            how: "the key file /etc/attache/slot.key".into(),
        }
        .into(),
        Attempts {
            broker: broker(),
            slot: Some("board (7a0c)".into()),
            ending: "not what opens that slot".into(),
            count: 1,
            first_ms: 7,
            last_ms: 7,
            address: Some("192.0.2.7".into()),
        }
        .into(),
        Attempts {
            broker: broker(),
            slot: None,
            ending: "only counted".into(),
            count: 9,
            first_ms: 7,
            last_ms: 8,
            address: None,
        }
        .into(),
        Sealing {
            operator: Some(operator()),
            serial: Some(serial()),
            request: Some([9; 16]),
            broker: broker(),
            reason: Some("memory was read".into()),
            since_ms: Some(7),
        }
        .into(),
        Sealing {
            operator: None,
            serial: None,
            request: None,
            broker: broker(),
            reason: None,
            since_ms: None,
        }
        .into(),
    ]
}

fn deliveries() -> Vec<Event> {
    let refusals = Refusals {
        actor: node(),
        denial: Some([1, 2, 3, 4]),
        public_reason: "the token is for another audience".into(),
        count: 12,
        first_ms: 1_000,
        last_ms: 2_000,
    };
    let unattested = Denial {
        request: None,
        object: None,
        cluster: None,
        namespace: None,
        service_account: None,
        pod_name: None,
        pod_uid: None,
        container: None,
        image: None,
        volume_id: None,
        volume_name: None,
        references: None,
        denial: None,
        policies: None,
        ..denial()
    };
    let bare = Release {
        image: None,
        left_out: None,
        values: vec![],
        policies: vec![],
        ..release()
    };
    vec![
        release().into(),
        bare.into(),
        denial().into(),
        unattested.into(),
        Refusals {
            denial: None,
            ..refusals.clone()
        }
        .into(),
        refusals.into(),
    ]
}

fn release() -> Release {
    let value = ReleasedValue {
        keyspace: "payments".into(),
        name: "db".into(),
        secret: [1; 16],
        version: 3,
        field: "password".into(),
        value: [2; 16],
    };
    Release {
        node: node(),
        serial: serial(),
        release: [3; 16],
        session: [4; 16],
        nonce: [5; 16],
        plugin_key: [6; 32],
        cluster: "local".into(),
        namespace: "shop".into(),
        service_account: "web".into(),
        pod_name: "web-7c9".into(),
        pod_uid: "0b5f".into(),
        container: "app".into(),
        image: Some("registry.internal/app:1".into()),
        volume_id: "csi-00".into(),
        volume_name: "secrets".into(),
        values: vec![
            value.clone(),
            ReleasedValue {
                field: "username".into(),
                ..value
            },
        ],
        left_out: Some(vec!["payments/extra".into()]),
        generation: Generation {
            incarnation: 1,
            seq: 42,
            digest: [7; 32],
        },
        policies: vec!["grant-1".into()],
    }
}

fn denial() -> Denial {
    Denial {
        actor: node(),
        serial: serial(),
        request: Some([8; 16]),
        verb: "deliver".into(),
        object: Some("payments/db".into()),
        cluster: Some("local".into()),
        namespace: Some("shop".into()),
        service_account: Some("web".into()),
        pod_name: Some("web-7c9".into()),
        pod_uid: Some("0b5f".into()),
        container: Some("app".into()),
        image: Some("registry.internal/app:1".into()),
        volume_id: Some("csi-00".into()),
        volume_name: Some("secrets".into()),
        references: Some(vec!["payments/db".into()]),
        denial: Some([0x7f, 0x3a, 0x9c, 0x12]),
        public_reason: "no grant lets local/shop/web/app read payments/db".into(),
        true_reason: "payments/db does not exist".into(),
        policies: Some(vec![]),
    }
}

fn mutations() -> Vec<Event> {
    let intent = Intent {
        operator: operator(),
        serial: serial(),
        request: [9; 16],
        verb: "secret.put".into(),
        object: "payments/db".into(),
        digest: [11; 32],
        expected_seq: 43,
        reason: Some("rotated by hand".into()),
    };
    let committed = Outcome {
        operator: operator(),
        request: [9; 16],
        made: None,
        reason: None,
        ending: Ending::Committed,
        seq: Some(43),
        anchor_t: Some([10; 32]),
        intent: 17,
    };
    let lost = Outcome {
        reason: Some("the head moved".into()),
        ending: Ending::NotCommitted,
        seq: None,
        anchor_t: None,
        ..committed.clone()
    };
    let backup = Outcome {
        made: Some([12; 32]),
        ..committed.clone()
    };
    vec![intent.into(), committed.into(), backup.into(), lost.into()]
}

fn identities() -> Vec<Event> {
    let (key, not_after_ms) = ([12; 32], 3_000);
    let evidence = "join-token 9a".into();
    let reason = || "a key older than the previous one was used".to_owned();
    let bootstrap = Bootstrap {
        operator: operator(),
        key,
        not_after_ms,
        evidence: None,
        serial: serial(),
    };
    let renewal = Renewal {
        identity: node(),
        previous_serial: serial(),
        key,
        not_after_ms,
        evidence: None,
        serial: vec![1],
    };
    vec![
        bootstrap.clone().into(),
        Bootstrap {
            evidence: Some("operator-code 9a".into()),
            ..bootstrap
        }
        .into(),
        Enrollment {
            node: node(),
            key,
            not_after_ms,
            evidence,
            serial: serial(),
        }
        .into(),
        renewal.clone().into(),
        Renewal {
            evidence: Some("its recorded key".into()),
            ..renewal
        }
        .into(),
        Ban {
            identity: node(),
            reason: reason(),
        }
        .into(),
        Alarm {
            identity: node(),
            reason: reason(),
        }
        .into(),
    ]
}
