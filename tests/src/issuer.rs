//! A token issuer: signs service-account tokens with the claims that kubelet's TokenRequest gets for a pod.

use std::{
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, ensure};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as B64URL},
};
use ring::{
    rand::SystemRandom,
    rsa::PublicKeyComponents as RsaPublicKeyComponents,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use serde_json::{Value, json};

use crate::pod::Pod;

/// Signs tokens with one key: ES256, or RS256 as most API servers do.
pub struct Issuer {
    /// The `iss` of its tokens.
    pub url: String,
    /// The `kid` of its key.
    pub kid: String,
    pkcs8: Vec<u8>,
    key: SigningKey,
}

enum SigningKey {
    Es256(Box<EcdsaKeyPair>),
    Rs256(Box<RsaKeyPair>),
}

impl Issuer {
    /// Makes an issuer with a new key.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(url: &str, kid: &str) -> Result<Self> {
        let rng = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng)
            .map_err(|_| anyhow!("no key"))?;
        Self::from_pkcs8(url, kid, pkcs8.as_ref())
    }

    /// Makes an issuer with a new RSA key of 2048 bits, by `openssl`.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new_rsa(url: &str, kid: &str) -> Result<Self> {
        let made = Command::new("openssl")
            .args("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048".split(' '))
            .output()
            .context("run openssl")?;
        ensure!(made.status.success(), "openssl made no key");
        // PEM (RFC 7468): only so is it PKCS#8.
        let text = String::from_utf8(made.stdout)?;
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        Self::from_pkcs8(url, kid, &BASE64.decode(body)?)
    }

    /// An issuer with a key that was made before.
    ///
    /// # Errors
    /// When the bytes are no P-256 and no RSA key in PKCS#8.
    pub fn from_pkcs8(url: &str, kid: &str, pkcs8: &[u8]) -> Result<Self> {
        let ecdsa = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            pkcs8,
            &SystemRandom::new(),
        );
        let key = match ecdsa {
            Ok(key) => SigningKey::Es256(Box::new(key)),
            Err(_) => RsaKeyPair::from_pkcs8(pkcs8)
                .map(|key| SigningKey::Rs256(Box::new(key)))
                .map_err(|e| anyhow!("issuer key: {e}"))?,
        };
        Ok(Self {
            url: url.into(),
            kid: kid.into(),
            pkcs8: pkcs8.to_vec(),
            key,
        })
    }

    /// The key as PKCS#8 DER.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The key set that verifies its tokens (RFC 7517).
    #[must_use]
    pub fn jwks(&self) -> Value {
        let mut key = match &self.key {
            SigningKey::Es256(key) => {
                // An uncompressed point: 0x04 || x 32 || y 32.
                let point = key.public_key().as_ref();
                let (x, y) = (point.get(1..33), point.get(33..65));
                json!({
                    "kty": "EC", "crv": "P-256",
                    "x": B64URL.encode(x.unwrap_or_default()),
                    "y": B64URL.encode(y.unwrap_or_default()),
                })
            }
            SigningKey::Rs256(key) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({ "kty": "RSA", "n": B64URL.encode(public.n), "e": B64URL.encode(public.e) })
            }
        };
        if let Some(key) = key.as_object_mut() {
            key.insert("alg".into(), self.algorithm().into());
            key.insert("use".into(), "sig".into());
            key.insert("kid".into(), self.kid.as_str().into());
        }
        json!({ "keys": [key] })
    }

    fn algorithm(&self) -> &'static str {
        match self.key {
            SigningKey::Es256(_) => "ES256",
            SigningKey::Rs256(_) => "RS256",
        }
    }

    /// The claims of a fresh token for `pod`, valid for an hour, as the API server would issue them to kubelet.
    #[must_use]
    pub fn claims(&self, pod: &Pod, audience: &str) -> Value {
        let now = now_s();
        json!({
            "iss": self.url,
            "aud": [audience],
            "sub": format!("system:serviceaccount:{}:{}", pod.namespace, pod.service_account),
            "iat": now, "nbf": now, "exp": now + 3600,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": {
                "namespace": pod.namespace,
                "node": { "name": pod.node, "uid": pod.node_uid },
                "pod": { "name": pod.name, "uid": pod.uid },
                "serviceaccount": { "name": pod.service_account, "uid": pod.service_account_uid },
            },
        })
    }

    /// Signs claims as they are: tests change them first.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        let header = json!({ "alg": self.algorithm(), "kid": self.kid, "typ": "JWT" });
        let head = format!(
            "{}.{}",
            B64URL.encode(header.to_string()),
            B64URL.encode(claims.to_string())
        );
        let random = SystemRandom::new();
        let signature = match &self.key {
            SigningKey::Es256(key) => key
                .sign(&random, head.as_bytes())
                .map(|signature| signature.as_ref().to_vec()),
            SigningKey::Rs256(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, head.as_bytes(), &mut signature)
                    .map(|()| signature)
            }
        };
        let signature = signature.map_err(|_| anyhow!("signing failed"))?;
        Ok(format!("{head}.{}", B64URL.encode(signature)))
    }

    /// A fresh, honest token.
    ///
    /// # Errors
    /// When signing fails.
    pub fn mint(&self, pod: &Pod, audience: &str) -> Result<String> {
        self.sign(&self.claims(pod, audience))
            .context("mint a token")
    }
}

/// Seconds since the Unix epoch.
#[must_use]
pub fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
