//! The wire contract: every service, message, field number, type and name, held against `descriptors.golden`.
//! Lines of the golden file may be added, never changed or removed: callers of older versions are out there.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

fn described() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(attache_proto::DESCRIPTORS).expect("descriptors decode");
    let mut lines = BTreeSet::new();
    for file in set
        .file
        .iter()
        .filter(|f| !f.package().starts_with("google."))
    {
        for service in &file.service {
            for method in &service.method {
                let stream = |on: bool| if on { "stream " } else { "" };
                lines.insert(format!(
                    "rpc {}.{}/{} ({}{}) -> {}{}",
                    file.package(),
                    service.name(),
                    method.name(),
                    stream(method.client_streaming()),
                    method.input_type(),
                    stream(method.server_streaming()),
                    method.output_type(),
                ));
            }
        }
        file.message_type
            .iter()
            .for_each(|m| message(file.package(), m, &mut lines));
        file.enum_type
            .iter()
            .for_each(|e| enumeration(file.package(), e, &mut lines));
    }
    lines
}

fn message(prefix: &str, descriptor: &DescriptorProto, lines: &mut BTreeSet<String>) {
    let name = format!("{prefix}.{}", descriptor.name());
    lines.insert(format!("message {name}"));
    for field in &descriptor.field {
        let kind = match field.r#type() {
            Type::Message | Type::Enum => field.type_name().to_owned(),
            scalar => format!("{scalar:?}").to_lowercase(),
        };
        let label = match (field.label(), field.proto3_optional()) {
            (Label::Repeated, _) => "repeated ",
            (_, true) => "optional ",
            _ => "",
        };
        lines.insert(format!(
            "field {name}.{} = {} {label}{kind}",
            field.name(),
            field.number()
        ));
    }
    descriptor
        .nested_type
        .iter()
        .for_each(|m| message(&name, m, lines));
    descriptor
        .enum_type
        .iter()
        .for_each(|e| enumeration(&name, e, lines));
}

fn enumeration(prefix: &str, descriptor: &EnumDescriptorProto, lines: &mut BTreeSet<String>) {
    for value in &descriptor.value {
        lines.insert(format!(
            "enum {prefix}.{}.{} = {}",
            descriptor.name(),
            value.name(),
            value.number()
        ));
    }
}

#[test]
fn the_wire_contract_only_grows() {
    let golden: BTreeSet<String> = include_str!("descriptors.golden")
        .lines()
        .map(str::to_owned)
        .collect();
    let now = described();
    let gone: Vec<_> = golden.difference(&now).collect();
    let new: Vec<_> = now.difference(&golden).collect();
    assert!(
        gone.is_empty(),
        "changed or removed, which breaks callers:\n{gone:#?}"
    );
    assert!(
        new.is_empty(),
        "new; add these lines to proto/tests/descriptors.golden, sorted:\n{}",
        join(&new)
    );
}

#[test]
fn no_rpc_answers_a_value() {
    // Sealed keys leave in one answer only, and ciphertext likewise.
    let answers_with_key_material: Vec<_> = described()
        .into_iter()
        .filter(|l| {
            l.starts_with("field attache.v1.")
                && (l.contains(".sealed_keys ") || l.contains(".ct "))
        })
        .collect();
    assert_eq!(
        answers_with_key_material,
        [
            "field attache.v1.CommitPutRequest.sealed_keys = 12 bytes",
            "field attache.v1.PutValue.ct = 3 bytes",
            "field attache.v1.Released.sealed_keys = 9 bytes",
            "field attache.v1.ReleasedValue.ct = 8 bytes",
        ]
    );
}

fn join(lines: &[&String]) -> String {
    lines.iter().map(|l| format!("{l}\n")).collect()
}
