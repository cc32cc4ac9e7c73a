//! What the tests of this folder share: issuers with real keys, kubelet's claims, and a pod that is in order.

use std::collections::HashMap;
use std::sync::Arc;

use attache_mtls::spiffe::NodeId;
use base64::Engine;
pub(crate) use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use serde_json::{Value, json};

use super::jwks::KeySet;
use super::token::{Expected, PodIdentity, verify};
use super::{AttestRequest, PodHints, PodToken};

pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const AUDIENCE: &str = "attache";
pub(crate) const NOW_S: i64 = 1_800_000_000;
pub(crate) const POD_UID: &str = "11111111-1111-4111-8111-111111111111";
pub(crate) const NODE_UID: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
pub(crate) const OTHER_NODE_UID: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";

const RSA_PKCS8: &[u8] = include_bytes!("testdata/TEST-ONLY-rsa2048.pk8");

pub(crate) enum Issuer {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Issuer {
    pub(crate) fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::from_pkcs8(RSA_PKCS8).unwrap())
    }

    pub(crate) fn p256() -> Self {
        let rng = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        let alg = &ECDSA_P256_SHA256_FIXED_SIGNING;
        Self::P256(EcdsaKeyPair::from_pkcs8(alg, pkcs8.as_ref(), &rng).unwrap())
    }

    pub(crate) fn ed25519() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    pub(crate) fn all() -> [Self; 3] {
        [Self::rsa(), Self::p256(), Self::ed25519()]
    }

    pub(crate) fn alg(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    /// The public key as a JWK under `kid`.
    pub(crate) fn jwk(&self, kid: &str) -> Value {
        let public = self.public();
        let mut jwk = match self {
            Self::Rsa(key) => {
                let key: ring::rsa::PublicKeyComponents<Vec<u8>> = key.public().into();
                json!({"kty": "RSA", "n": B64.encode(key.n), "e": B64.encode(key.e)})
            }
            Self::P256(_) => json!({
                "kty": "EC", "crv": "P-256",
                "x": B64.encode(&public[1..33]), "y": B64.encode(&public[33..]),
            }),
            Self::Ed25519(_) => json!({"kty": "OKP", "crv": "Ed25519", "x": B64.encode(&public)}),
        };
        jwk["kid"] = kid.into();
        jwk["use"] = "sig".into();
        jwk["alg"] = self.alg().into();
        jwk
    }

    pub(crate) fn public(&self) -> Vec<u8> {
        match self {
            Self::Rsa(key) => key.public().as_ref().to_vec(),
            Self::P256(key) => key.public_key().as_ref().to_vec(),
            Self::Ed25519(key) => key.public_key().as_ref().to_vec(),
        }
    }

    pub(crate) fn jwks(&self) -> Value {
        json!({"keys": [self.jwk("k1")]})
    }

    /// An honest token over these claims.
    pub(crate) fn mint(&self, claims: &Value) -> String {
        let header = json!({"alg": self.alg(), "kid": "k1", "typ": "JWT"});
        self.sign(&header.to_string(), &claims.to_string())
    }

    /// Signs any header and claims.
    pub(crate) fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", B64.encode(header), B64.encode(claims));
        let signature = self.signature(message.as_bytes());
        format!("{message}.{}", B64.encode(signature))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let rng = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &rng, message, &mut signature)
                    .unwrap();
                signature
            }
            Self::P256(key) => key.sign(&rng, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}

pub(crate) fn now() -> Timestamp {
    at(0)
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW_S + seconds).unwrap()
}

/// Kubelet's claims for the pod of [`pod`], ten minutes from now.
pub(crate) fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": [AUDIENCE], "sub": "system:serviceaccount:shop:web",
        "iat": NOW_S, "nbf": NOW_S, "exp": NOW_S + 600, "jti": "6d1c",
        "kubernetes.io": {
            "namespace": "shop",
            "node": {"name": "node-a", "uid": NODE_UID},
            "pod": {"name": "web-0", "uid": POD_UID},
            "serviceaccount": {"name": "web", "uid": "33333333-3333-4333-8333-333333333333"},
        },
    })
}

/// What an honest token over [`claims`] says.
pub(crate) fn identity() -> Arc<PodIdentity> {
    let issuer = Issuer::p256();
    let keys = KeySet::parse(issuer.jwks().to_string().as_bytes()).unwrap();
    let token = PodToken::new(issuer.mint(&claims()));
    let expected = Expected {
        issuer: ISSUER,
        audience: AUDIENCE,
    };
    verify(&token, &keys, expected, now()).unwrap()
}

/// A pod of two containers that is in order.
pub(crate) fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": "web-0", "uid": POD_UID},
        "spec": {
            "nodeName": "node-a", "serviceAccountName": "web",
            "containers": [
                {
                    "name": "app", "image": "registry.example/web@sha256:00",
                    "securityContext": {"runAsUser": 1000, "runAsGroup": 1001},
                    "volumeMounts": [{"name": "secrets", "mountPath": "/secrets"}],
                },
                {"name": "sidecar", "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]},
            ],
            "initContainers": [{"name": "setup"}],
            "volumes": [
                {"name": "tmp", "emptyDir": {}},
                {"name": "secrets", "csi": {
                    "driver": "csi.attache.dev", "readOnly": true,
                    "volumeAttributes": {"container": "app", "secrets": "payments/db"},
                }},
            ],
        },
    })
}

pub(crate) fn node(name: &str, uid: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": uid}})
}

pub(crate) fn node_id(uid: &str) -> NodeId {
    format!("spiffe://example.internal/node/local/{uid}")
        .parse()
        .unwrap()
}

/// An honest request for the volume of [`pod`].
pub(crate) fn request(token: String) -> AttestRequest {
    let attributes = [("container", "app"), ("secrets", "payments/db")];
    let kubelets = [("csi.storage.k8s.io/ephemeral", "true")];
    AttestRequest {
        token: PodToken::new(token),
        volume_id: volume_id(POD_UID, "secrets"),
        volume_name: "secrets".into(),
        attributes: HashMap::from_iter(
            attributes
                .into_iter()
                .chain(kubelets)
                .map(|(k, v)| (k.to_owned(), v.to_owned())),
        ),
        pod: PodHints {
            namespace: "shop".into(),
            name: "web-0".into(),
            uid: POD_UID.into(),
            service_account: "web".into(),
        },
        mount_group: None,
    }
}

/// Kubelet's handle, worked out apart from the type.
pub(crate) fn volume_id(pod_uid: &str, volume: &str) -> String {
    let hash = ring::digest::digest(
        &ring::digest::SHA256,
        format!("{pod_uid}{volume}").as_bytes(),
    );
    format!("csi-{}", hex::encode(hash.as_ref()))
}
