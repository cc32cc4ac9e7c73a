//! Wire types and how they are read, nothing else: the product's own services, the Container Storage Interface and
//! kubelet's plugin registration, generated from the files in `proto/` when the crate is built; the codec that is strict
//! about requests; the details of a status.
//!
//! Messages that carry a secret, a token or sealed key material have no `Debug`.

pub mod codec;
pub mod details;
mod shape;

/// The product's own services.
pub mod attache {
    /// Package `attache.v1`. Field numbers, types and names only grow.
    pub mod v1 {
        tonic::include_proto!("attache.v1");
    }
}

/// The Container Storage Interface.
pub mod csi {
    /// Package `csi.v1`, specification v1.12: Identity and Node.
    pub mod v1 {
        tonic::include_proto!("csi.v1");
    }
}

/// Kubernetes' key management service.
pub mod kms {
    /// Package `v2` of k8s.io/kms: what a KMS plugin serves on its unix socket.
    pub mod v2 {
        tonic::include_proto!("v2");
    }
}

/// Kubelet's plugin registration, v1.
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}

/// Every file above as an encoded `google.protobuf.FileDescriptorSet`, for reflection and for the tests that walk it.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
