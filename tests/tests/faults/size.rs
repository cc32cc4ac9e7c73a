//! D1: what is too large is refused at each end, by name, and takes nothing from the others.

use std::{fs, io::Write};

use attache_proto::{attache::v1 as pb, details::Details};
use attache_tests::{
    Bed, Scene,
    bed::{AUDIENCE, NODE},
    mounts,
    pod::Pod,
    raw::{Types, call},
    scene::PASSWORD,
    wire,
};
use pb::secrets_client::SecretsClient;
use tonic::{Code, Status};

use crate::said;

const MIB: usize = 1024 * 1024;

fn put(ciphertexts: &[usize], path: pb::SecretPath) -> pb::CommitPutRequest {
    let values = ciphertexts
        .iter()
        .enumerate()
        .map(|(i, bytes)| pb::PutValue {
            field: format!("field-{i}"),
            value: uuid::Uuid::new_v4().as_bytes().to_vec(),
            ct: vec![0; *bytes].into(),
        });
    pb::CommitPutRequest {
        mutation: Some(pb::Mutation {
            request_id: uuid::Uuid::now_v7().as_bytes().to_vec(),
            dry_run: false,
        }),
        path: Some(path),
        secret: vec![7; 16],
        values: values.collect(),
        key_id: vec![7; 16],
        boot: vec![7; 16],
        enc: vec![7; 32],
        sealed_keys: vec![7; 32 * ciphertexts.len() + 16],
        ..Default::default()
    }
}

fn field(status: &Status) -> Option<String> {
    Details::of(status).and_then(|details| details.field)
}

#[test]
fn the_command_line_reads_no_more_than_a_mebibyte() {
    let scene = Scene::start().unwrap();
    let file = scene.bed.dir.join("etc/large");
    fs::write(&file, vec![b'x'; MIB + 1]).unwrap();
    let from_file = format!("value=@{}", file.display());
    let too_large = scene
        .bed
        .attache(&["secret", "put", "payments/large", &from_file])
        .unwrap();
    assert_eq!(too_large.status.code(), Some(2), "{}", said(&too_large));
    assert!(
        said(&too_large).contains("value") && said(&too_large).contains("1 MiB"),
        "{}",
        said(&too_large)
    );
    // Without an end.
    let mut endless = scene.bed.attache_command().unwrap();
    endless.args(["secret", "put", "payments/large", "value=@/dev/zero"]);
    let endless = endless.output().unwrap();
    assert_eq!(endless.status.code(), Some(2), "{}", said(&endless));
    // Two fields, each within the limit.
    fs::write(&file, vec![b'x'; MIB / 2 + 1]).unwrap();
    let other = format!("other=@{}", file.display());
    let both = scene
        .bed
        .attache(&["secret", "put", "payments/large", &from_file, &other])
        .unwrap();
    assert_eq!(both.status.code(), Some(2), "{}", said(&both));
    let fields: Vec<String> = (0..65).map(|i| format!("--literal=f{i}=x")).collect();
    let mut words = vec!["secret", "put", "payments/large"];
    words.extend(fields.iter().map(String::as_str));
    let many = scene.bed.attache(&words).unwrap();
    assert!(
        many.status.code() == Some(2) && said(&many).contains("64"),
        "{}",
        said(&many)
    );
    let absent = scene
        .bed
        .attache(&["secret", "show", "payments/large"])
        .unwrap();
    assert_eq!(absent.status.code(), Some(5), "{}", said(&absent));
    // The control: the limit itself.
    fs::File::create(&file)
        .unwrap()
        .write_all(&vec![b'x'; MIB])
        .unwrap();
    scene
        .bed
        .attache_ok(&["secret", "put", "payments/large", &from_file])
        .unwrap();
}

#[test]
fn the_broker_takes_no_larger_put_and_no_larger_message() {
    let scene = Scene::start().unwrap();
    let _guard = scene.runtime.enter();
    let operator = wire::operator(&scene.bed).unwrap();
    let path = pb::SecretPath {
        keyspace: "payments".into(),
        name: "large".into(),
    };
    let tag = 16;
    let cases = [
        (vec![MIB + 1 + tag], Code::InvalidArgument, "values"),
        (
            vec![MIB / 2 + tag, MIB / 2 + 1 + tag],
            Code::InvalidArgument,
            "values",
        ),
        (vec![1 + tag; 65], Code::InvalidArgument, "values"),
        (vec![], Code::InvalidArgument, "values"),
    ];
    for (ciphertexts, code, named) in cases {
        let request = put(&ciphertexts, path.clone());
        let mut secrets = SecretsClient::new(operator.clone());
        let status = scene
            .runtime
            .block_on(secrets.commit_put(request))
            .unwrap_err();
        assert_eq!(
            (status.code(), field(&status).as_deref()),
            (code, Some(named)),
            "{status:?}"
        );
    }
    // More than is read at all, on every RPC that an operator has.
    let types = Types::of(&["attache.v1"]).unwrap();
    let others = [
        "attache.v1.Delivery",
        "attache.v1.Renewal",
        "attache.v1.Enrollment",
        "attache.v1.Unsealing",
        "attache.v1.Admin",
    ];
    for method in types
        .methods
        .iter()
        .filter(|m| !others.contains(&m.service.as_str()))
    {
        let answer = call(&operator, method, vec![vec![0; 5 * MIB]]);
        let status = scene.runtime.block_on(answer).unwrap_err();
        assert_eq!(
            status.code(),
            Code::ResourceExhausted,
            "{}: {status:?}",
            method.name
        );
        assert!(
            status.message().contains("larger than is read"),
            "{status:?}"
        );
    }
    let absent = scene
        .bed
        .attache(&["secret", "show", "payments/large"])
        .unwrap();
    assert_eq!(absent.status.code(), Some(5), "{}", said(&absent));
    scene
        .put("payments/large", &[("value", &"x".repeat(MIB))])
        .unwrap();
}

#[test]
fn a_volume_that_is_too_large_is_refused_and_leaves_nothing() {
    let bed = Bed::new().unwrap();
    let scene = Scene::on(bed).unwrap();
    for name in ["one", "two", "three"] {
        let path = format!("payments/{name}");
        scene.put(&path, &[(name, &"x".repeat(MIB))]).unwrap();
        let to = "local/shop/web/app";
        scene
            .bed
            .attache_ok(&["grant", "add", name, &path, "--to", to])
            .unwrap();
    }
    let large = Pod::new(
        "shop",
        "web-0",
        "web",
        NODE,
        "payments/one, payments/two, payments/three",
    );
    let token = scene.bed.token(&large).unwrap();
    let status = scene.refused(&large, AUDIENCE, &token).unwrap();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(
        status.message().contains("1048576 bytes together"),
        "{status:?}"
    );
    assert!(mounts::below(&scene.bed.kubelet_dir()).unwrap().is_empty());
    let status = scene
        .bed
        .attache_ok(&["status", "--output", "json"])
        .unwrap();
    assert!(status.contains("\"releases\": 0,"), "{status}");
    let one = Pod::new("shop", "web-1", "web", NODE, "payments/one");
    scene.publish(&one).unwrap();
    assert_eq!(scene.read(&one, "one/one").unwrap().len(), MIB);
    let small = Pod::new("shop", "web-2", "web", NODE, "payments/db");
    scene.publish(&small).unwrap();
    assert_eq!(scene.read(&small, "db/password").unwrap(), PASSWORD);
}
