//! Good requests, one an RPC, and what they are about.

use attache_cli::{
    fields::FieldValue,
    put::{Begun, Plan, seal},
    slot_secret::{self, KeyFile, Purpose},
};
use attache_envelope::slot::{SlotKind, SlotVerb};
use attache_mtls::key::LeafKey;
use attache_proto::attache::v1 as pb;
use attache_tests::{
    Bed, Scene,
    bed::{AUDIENCE, CLUSTER, NODE, OTHER_NODE, TRUST_DOMAIN},
    pod::Pod,
    raw::Method,
    scene::PASSWORD,
    wire,
};
use jiff::Timestamp;
use prost::Message;
use tonic::transport::Channel;

use crate::kinds::CANARY;

/// A node that has joined and is banned.
const BANNED: (&str, &str) = OTHER_NODE;
/// A node that has a token and has not joined.
const JOINING: (&str, &str) = ("node-c", "5a0c1de0-0000-4000-8000-00000000000c");

/// A node that has joined, and comes again with another key.
const RETURNING: (&str, &str) = ("node-d", "5a0c1de0-0000-4000-8000-00000000000d");

/// Good requests, one an RPC: each is the control, sent last, that its bad forms are refused for what is bad in them.
pub(crate) struct Good {
    approval: String,
    decision: String,
    pub(crate) deliver: pb::DeliverRequest,
    pub(crate) join_token: String,
    pub(crate) code: String,
    late: pb::RenewLateRequest,
    put: pb::CommitPutRequest,
    add_slot: pb::AddSlotRequest,
    verify_slot: pb::VerifySlotRequest,
}

impl Good {
    /// The good request of a method.
    pub(crate) fn request(&self, method: &Method) -> Vec<u8> {
        match method.service.as_str() {
            "attache.v1.Secrets" | "attache.v1.Keyspaces" => self.of_secrets(&method.name),
            "attache.v1.Keys" => of_keys(&method.name),
            "attache.v1.Grants" | "attache.v1.Guardrails" => of_policy(&method.name),
            "attache.v1.Clusters" | "attache.v1.Nodes" | "attache.v1.Operators" => {
                of_fleet(&method.name)
            }
            "attache.v1.Slots" => self.of_slots(&method.name),
            "attache.v1.Approvals" => self.of_approvals(&method.name),
            "attache.v1.Backups" => of_backups(&method.name),
            _ => self.of_others(&method.name),
        }
    }

    fn of_secrets(&self, name: &str) -> Vec<u8> {
        let (mutation, path, page) = (mutation(), Some(secret_path()), page());
        match name {
            "BeginPut" => bytes(pb::BeginPutRequest { path }),
            "CommitPut" => bytes(self.put.clone()),
            "ListSecrets" => bytes(pb::ListSecretsRequest {
                keyspace: "payments".into(),
                page,
            }),
            "ShowSecret" => bytes(pb::ShowSecretRequest { path }),
            "ListVersions" => bytes(pb::ListVersionsRequest { path, page }),
            "Rollback" => bytes(pb::RollbackRequest {
                mutation,
                path,
                ..Default::default()
            }),
            "PinVersion" => bytes(pb::PinVersionRequest {
                mutation,
                path,
                version: 2,
                reason: String::new(),
            }),
            "UnpinVersion" => bytes(pb::UnpinVersionRequest {
                mutation,
                path,
                version: 1,
                reason: String::new(),
            }),
            "DestroySecret" => bytes(pb::DestroySecretRequest {
                mutation,
                path,
                ..Default::default()
            }),
            "CreateKeyspace" => bytes(pb::CreateKeyspaceRequest {
                mutation,
                name: "web".into(),
                max_versions: Some(7),
                max_key_age_s: Some(86_400),
                max_key_wraps: Some(1_000),
                rotate_automatically: Some(false),
                backup_age_s: Some(86_400),
            }),
            "ShowKeyspace" => bytes(pb::ShowKeyspaceRequest {
                name: "payments".into(),
            }),
            "SetKeyspace" => bytes(pb::SetKeyspaceRequest {
                mutation,
                name: "payments".into(),
                max_versions: Some(1000),
                max_key_age_s: Some(86_400),
                max_key_wraps: Some(1_000_000),
                rotate_automatically: Some(true),
                backup_age_s: Some(86_400),
            }),
            "DestroyKeyspace" => bytes(pb::DestroyKeyspaceRequest {
                mutation,
                name: "spare".into(),
            }),
            "ListKeyspaces" => bytes(pb::ListKeyspacesRequest { page }),
            other => panic!("{other} has no good request"),
        }
    }

    fn of_approvals(&self, name: &str) -> Vec<u8> {
        let id = self.approval.clone();
        match name {
            "ListApprovals" => bytes(pb::ListApprovalsRequest { page: page() }),
            "ShowApproval" => bytes(pb::ShowApprovalRequest { id }),
            "ApproveEnrollment" | "RejectEnrollment" => bytes(pb::DecideEnrollmentRequest {
                mutation: mutation(),
                id,
                reason: String::new(),
            }),
            other => panic!("{other} has no good request"),
        }
    }

    fn of_slots(&self, name: &str) -> Vec<u8> {
        let (mutation, page) = (mutation(), page());
        match name {
            "ListSlots" => bytes(pb::ListSlotsRequest { page }),
            "BeginSlot" => Vec::new(),
            "AddSlot" => bytes(self.add_slot.clone()),
            "VerifySlot" => bytes(self.verify_slot.clone()),
            "RemoveSlot" => bytes(pb::RemoveSlotRequest {
                mutation,
                slot: self.verify_slot.slot.clone(),
            }),
            "RotateRoot" => bytes(pb::RotateRootRequest { mutation }),
            other => panic!("{other} has no good request"),
        }
    }

    fn of_others(&self, name: &str) -> Vec<u8> {
        match name {
            "BootstrapOperator" => bytes(pb::BootstrapOperatorRequest {
                name: "ada".into(),
                csr: csr(),
            }),
            "CheckStore" | "LatestCheckpoint" | "ShowStatus" | "GetSeal" | "UnsealBroker" => {
                Vec::new()
            }
            "Unseal" => bytes(pb::UnsealRequest {
                boot: vec![1; 16],
                slot: vec![2; 16],
                enc: vec![3; 32],
                sealed: vec![4; 48],
            }),
            "SealBroker" => bytes(pb::SealBrokerRequest {
                mutation: mutation(),
                reason: String::new(),
            }),
            "ReadLeaves" => bytes(pb::ReadLeavesRequest {
                limit: 1,
                ..Default::default()
            }),
            "Explain" => bytes(pb::ExplainRequest {
                decision: self.decision.clone(),
            }),
            "Deliver" => bytes(self.deliver.clone()),
            "JoinNode" => bytes(join(&self.join_token)),
            "EnrollNode" => bytes(pb::EnrollNodeRequest {
                cluster: CLUSTER.into(),
                token: "a.b.c".into(),
                csr: csr(),
                version: String::new(),
            }),
            "SignInOperator" => bytes(pb::SignInOperatorRequest {
                code: self.code.clone(),
                csr: csr(),
                name: "eve".into(),
            }),
            "RenewLate" => bytes(self.late.clone()),
            "Renew" => bytes(pb::RenewRequest {
                csr: csr(),
                version: String::new(),
            }),
            other => panic!("{other} has no good request"),
        }
    }
}

fn of_backups(name: &str) -> Vec<u8> {
    let mutation = mutation();
    match name {
        "CreateBackup" => bytes(pb::CreateBackupRequest {
            mutation,
            reason: String::new(),
        }),
        "ListBackups" => bytes(pb::ListBackupsRequest { page: page() }),
        "RecordVerifiedBackup" => bytes(pb::RecordVerifiedBackupRequest {
            mutation,
            id: vec![1; 16],
            hash: vec![2; 32],
        }),
        other => panic!("{other} has no good request"),
    }
}

fn of_policy(name: &str) -> Vec<u8> {
    let (mutation, page) = (mutation(), page());
    match name {
        "AddGrant" => bytes(add_grant()),
        "ListGrants" => bytes(pb::ListGrantsRequest {
            keyspace: "payments".into(),
            page,
        }),
        "ShowGrant" => bytes(pb::ShowGrantRequest {
            name: "shop-web-db".into(),
        }),
        "RemoveGrant" => bytes(pb::RemoveGrantRequest {
            mutation,
            name: "shop-web-db".into(),
        }),
        "ListGuardrails" => bytes(pb::ListGuardrailsRequest { page }),
        other => panic!("{other} has no good request"),
    }
}

fn of_fleet(name: &str) -> Vec<u8> {
    let (mutation, page, reason) = (mutation(), page(), String::new());
    let cluster = CLUSTER.to_owned();
    let spiffe_id = node_id(if name == "UnbanNode" { BANNED } else { NODE });
    match name {
        "AddCluster" => bytes(add_cluster()),
        "ListClusters" => bytes(pb::ListClustersRequest { page }),
        "ShowCluster" => bytes(pb::ShowClusterRequest { name: cluster }),
        "RemoveCluster" => bytes(pb::RemoveClusterRequest {
            mutation,
            name: cluster,
        }),
        "ListNodes" => bytes(pb::ListNodesRequest { cluster, page }),
        "CreateJoinToken" => bytes(pb::CreateJoinTokenRequest {
            mutation,
            cluster,
            node: NODE.0.into(),
        }),
        "BanNode" | "UnbanNode" => bytes(pb::BanNodeRequest {
            mutation,
            spiffe_id,
            reason,
        }),
        "ReadmitNodes" => bytes(pb::ReadmitNodesRequest { mutation, reason }),
        "ListOperators" => bytes(pb::ListOperatorsRequest { page }),
        "AddOperator" => bytes(pb::AddOperatorRequest {
            mutation,
            name: "bob".into(),
        }),
        "BanOperator" | "UnbanOperator" => bytes(pb::BanOperatorRequest {
            mutation,
            name: "ada".into(),
            reason,
        }),
        other => panic!("{other} has no good request"),
    }
}

fn bytes(message: impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

fn page() -> Option<pb::Page> {
    Some(pb::Page {
        size: 10,
        token: String::new(),
    })
}

fn join(token: &str) -> pb::JoinNodeRequest {
    pb::JoinNodeRequest {
        token: token.to_owned(),
        csr: csr(),
        version: String::new(),
    }
}

fn mutation() -> Option<pb::Mutation> {
    let request_id = uuid::Uuid::now_v7().as_bytes().to_vec();
    Some(pb::Mutation {
        request_id,
        dry_run: true,
    })
}

fn of_keys(name: &str) -> Vec<u8> {
    let keyspace = "payments".to_owned();
    match name {
        "RotateKey" => bytes(pb::RotateKeyRequest {
            mutation: mutation(),
            keyspace,
            ..Default::default()
        }),
        // The active one: the control of RotateKey comes later.
        "DestroyKey" => bytes(pb::DestroyKeyRequest {
            mutation: mutation(),
            keyspace,
            epoch: 1,
            now: false,
        }),
        "ShowAuditKeys" => bytes(pb::ShowAuditKeysRequest {}),
        "RotateAuditKey" => bytes(pb::RotateAuditKeyRequest {
            mutation: mutation(),
            reason: String::new(),
        }),
        "ShowMac" => bytes(pb::ShowMacRequest {}),
        "RotateMac" => bytes(pb::RotateMacRequest {
            mutation: mutation(),
            reason: String::new(),
        }),
        "ShowCa" => bytes(pb::ShowCaRequest {}),
        "RotateCa" => bytes(pb::RotateCaRequest {
            mutation: mutation(),
            reason: String::new(),
            now: false,
        }),
        "DropCa" => bytes(pb::DropCaRequest {
            mutation: mutation(),
            // Not there until the CA was rotated twice.
            epoch: 7,
            reason: String::new(),
        }),
        "ListRewraps" => bytes(pb::ListRewrapsRequest {
            keyspace,
            page: page(),
        }),
        "ListKeys" => bytes(pb::ListKeysRequest {
            keyspace,
            page: page(),
        }),
        other => panic!("{other} has no good request"),
    }
}

fn secret_path() -> pb::SecretPath {
    pb::SecretPath {
        keyspace: "payments".into(),
        name: "db".into(),
    }
}

pub(crate) fn csr() -> Vec<u8> {
    LeafKey::generate().unwrap().certificate_request().unwrap()
}

fn node_id((_, uid): (&str, &str)) -> String {
    format!("spiffe://{TRUST_DOMAIN}/node/{CLUSTER}/{uid}")
}

fn add_cluster() -> pb::AddClusterRequest {
    let cluster = pb::Cluster {
        name: "other".into(),
        issuer: "https://other.attache.test".into(),
        audience: AUDIENCE.into(),
        source: Some(pb::cluster::Source::Folder("/srv".into())),
        ..Default::default()
    };
    pb::AddClusterRequest {
        mutation: mutation(),
        cluster: Some(cluster),
    }
}

fn add_grant() -> pb::AddGrantRequest {
    pb::AddGrantRequest {
        mutation: mutation(),
        name: "another".into(),
        secret: Some(secret_path()),
        fields: vec!["password".into()],
        to: Some(pb::Workload {
            cluster: CLUSTER.into(),
            namespace: "shop".into(),
            service_account: "web".into(),
            container: "app".into(),
        }),
    }
}

fn deliver(pod: &Pod, token: &str) -> pb::DeliverRequest {
    pb::DeliverRequest {
        held: Some(pb::Generation {
            incarnation: 1,
            seq: 1,
            digest: vec![0; 32],
        }),
        ..wire::deliver_request(pod, token)
    }
}

/// A put of one field, sealed as the CLI seals it; nothing is to change.
async fn sealed_put(operator: &Channel) -> pb::CommitPutRequest {
    let path = Some(secret_path());
    let mut secrets = pb::secrets_client::SecretsClient::new(operator.clone());
    let begun = secrets
        .begin_put(pb::BeginPutRequest { path })
        .await
        .unwrap()
        .into_inner();
    let broker = format!("spiffe://{TRUST_DOMAIN}/broker/broker-0");
    let plan = Plan {
        path: "payments/db".parse().unwrap(),
        values: vec![FieldValue {
            field: "password".parse().unwrap(),
            value: CANARY.as_bytes().to_vec().into(),
        }],
        replace: false,
        expect_version: None,
        dry_run: true,
    };
    let begun = Begun::check(&begun, &broker).unwrap();
    let operator = format!("spiffe://{TRUST_DOMAIN}/operator/ada");
    seal(&operator, &broker, &begun, &plan).unwrap().1
}

/// A new slot and the one that there is, each with its secret sealed as the CLI seals it; nothing is to change.
async fn sealed_slots(
    scene: &Scene,
    operator: &Channel,
) -> (pb::AddSlotRequest, pb::VerifySlotRequest) {
    let mut slots = pb::slots_client::SlotsClient::new(operator.clone());
    let begun = slots.begin_slot(pb::BeginSlotRequest {}).await.unwrap();
    let listed = slots.list_slots(pb::ListSlotsRequest::default()).await;
    let there = listed.unwrap().into_inner().slots.remove(0).slot;
    let broker = format!("spiffe://{TRUST_DOMAIN}/broker/broker-0");
    let begun = slot_secret::Begun::check(&begun.into_inner(), &broker).unwrap();
    let file = KeyFile::read(&scene.bed.dir.join("etc/slot.key"), "").unwrap();
    let operator = format!("spiffe://{TRUST_DOMAIN}/operator/ada");
    let seal = |verb, slot: &[u8], name, file: &KeyFile| {
        let (request, mutation) = attache_cli::session::mutation(true);
        let purpose = Purpose {
            verb,
            request,
            slot: slot.try_into().unwrap(),
            kind: SlotKind::KeyFile,
            name,
        };
        let secret = begun.seal(&operator, &broker, &purpose, file.expose());
        (mutation, Some(secret.unwrap()))
    };
    let (mutation, secret) = seal(
        SlotVerb::Add,
        &[9; 16],
        "another",
        &KeyFile::random().unwrap(),
    );
    let add = pb::AddSlotRequest {
        mutation,
        slot: vec![9; 16],
        name: "another".into(),
        kind: "key-file".into(),
        secret,
        share_set: Vec::new(),
    };
    let (mutation, secret) = seal(SlotVerb::Verify, &there, "", &file);
    let verify = pb::VerifySlotRequest {
        mutation,
        slot: there,
        secret,
    };
    (add, verify)
}

fn join_token(bed: &Bed, node: &str) -> String {
    let token = bed.attache_ok(&[
        "node",
        "join-token",
        "--cluster",
        CLUSTER,
        "--node",
        node,
        "--quiet",
    ]);
    token.unwrap().trim().to_owned()
}

/// Has a node join twice, by tokens that were both made before; answers the id of what waits.
fn returning(scene: &Scene) -> String {
    let (name, uid) = RETURNING;
    scene.bed.cluster.add_node(name, uid).unwrap();
    let tokens = [join_token(&scene.bed, name), join_token(&scene.bed, name)];
    let answers = tokens.map(|token| {
        scene.runtime.block_on(async {
            let joining = wire::joining(&scene.bed, &token).unwrap();
            let mut client = pb::enrollment_client::EnrollmentClient::new(joining);
            client.join_node(join(&token)).await
        })
    });
    let [Ok(_), Err(status)] = answers else {
        panic!("the second one waits");
    };
    let (_, id) = status.message().rsplit_once(' ').unwrap();
    id.to_owned()
}

/// Everything that the good requests are about: two versions, the first of them pinned, a refusal, a banned node and one that may join.
pub(crate) fn furnish(scene: &Scene, operator: &Channel) -> Good {
    scene.put("payments/db", &[("username", PASSWORD)]).unwrap();
    scene
        .bed
        .attache_ok(&["secret", "pin", "payments/db@1"])
        .unwrap();
    let refused = Pod::new("shop", "web-9", "web", NODE, "payments/absent");
    let token = scene.bed.token(&refused).unwrap();
    let refusal = scene.refused(&refused, AUDIENCE, &token).unwrap();
    let (_, rest) = refusal.message().split_once("decision ").unwrap();
    let decision = rest.chars().take(8).collect();

    scene.bed.cluster.add_node(JOINING.0, JOINING.1).unwrap();
    let token = join_token(&scene.bed, BANNED.0);
    let request = join(&token);
    scene.runtime.block_on(async {
        let joining = wire::joining(&scene.bed, &token).unwrap();
        let joined = pb::enrollment_client::EnrollmentClient::new(joining)
            .join_node(request)
            .await;
        joined.unwrap();
    });
    scene
        .bed
        .attache_ok(&["node", "ban", &node_id(BANNED), "--yes"])
        .unwrap();
    let approval = returning(scene);

    let pod = scene.bed.pod("web-0", "payments/db").unwrap();
    let sealed = sealed_slots(scene, operator);
    let (add_slot, verify_slot) = scene.runtime.block_on(sealed);
    Good {
        add_slot,
        verify_slot,
        approval,
        decision,
        deliver: deliver(&pod, &scene.bed.token(&pod).unwrap()),
        join_token: join_token(&scene.bed, JOINING.0),
        code: {
            let code = scene.bed.attache_ok(&["operator", "add", "eve", "--quiet"]);
            code.unwrap().trim().to_owned()
        },
        // Good for five minutes, which the walk does not take.
        late: wire::late_request(&scene.bed, Timestamp::now()).unwrap(),
        put: scene.runtime.block_on(sealed_put(operator)),
    }
}
