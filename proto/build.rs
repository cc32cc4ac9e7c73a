//! Compiles the .proto files with protox (no protoc needed) into Rust types and one descriptor set.

use std::{env, fs, path::PathBuf};

use prost::Message;

const FILES: &[&str] = &[
    "attache/v1/admin.proto",
    "attache/v1/audit.proto",
    "attache/v1/backups.proto",
    "attache/v1/common.proto",
    "attache/v1/delivery.proto",
    "attache/v1/enrollment.proto",
    "attache/v1/fleet.proto",
    "attache/v1/keys.proto",
    "attache/v1/policy.proto",
    "attache/v1/seal.proto",
    "attache/v1/secrets.proto",
    "attache/v1/slots.proto",
    "attache/v1/status.proto",
    "csi/v1/csi.proto",
    "kms/v2/kms.proto",
    "pluginregistration/v1/registration.proto",
];

/// Messages that carry a secret, a token or sealed key material: they have no `Debug`, so they cannot be logged.
/// What contains one of them has none either.
const UNPRINTABLE: &[&str] = &[
    ".attache.v1.AddOperatorResponse",
    ".attache.v1.AddSlotRequest",
    ".attache.v1.CommitPutRequest",
    ".attache.v1.CreateJoinTokenResponse",
    ".attache.v1.DeliverRequest",
    ".attache.v1.DeliverResponse",
    ".attache.v1.DeliverResponse.answer",
    ".attache.v1.EnrollNodeRequest",
    ".attache.v1.JoinNodeRequest",
    ".attache.v1.Released",
    ".attache.v1.SealedSecret",
    ".attache.v1.SignInOperatorRequest",
    ".attache.v1.UnsealRequest",
    ".attache.v1.VerifySlotRequest",
    ".csi.v1.NodeExpandVolumeRequest",
    ".csi.v1.NodePublishVolumeRequest",
    ".csi.v1.NodeStageVolumeRequest",
    ".v2.DecryptResponse",
    ".v2.EncryptRequest",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // The codec looks a message's shape up by its name.
    let mut names = tonic_prost_build::Config::new();
    names.enable_type_names();
    tonic_prost_build::configure()
        .codec_path("crate::codec::Codec")
        .skip_debug(UNPRINTABLE)
        .bytes(".attache.v1.ReleasedValue.ct")
        .bytes(".attache.v1.PutValue.ct")
        .bytes(".attache.v1.AuditLeaf.body")
        .bytes(".attache.v1.CreateBackupResponse.piece")
        .boxed(".attache.v1.DeliverResponse.answer.released")
        .compile_fds_with_config(descriptors, names)?;
    Ok(())
}
