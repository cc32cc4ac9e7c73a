//! The certificate authority of a test cluster, what it signs, and the kubeconfigs made of it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};

use crate::process::run;

/// Whom a client certificate names.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    /// The user's name.
    pub name: &'a str,
    /// Its only group.
    pub group: &'a str,
}

/// May do everything.
pub const ADMIN: User<'static> = User {
    name: "admin",
    group: "system:masters",
};

/// Signs the certificates of one cluster: the API server's and its clients'.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    /// Makes an authority that keeps its files in `dir`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let mut params = named(OWN_NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        fs::write(dir.join("ca.crt"), &certificate)?;
        Ok(Self {
            dir: dir.to_owned(),
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// The file of its certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Signs a serving certificate; answers the files of certificate and key.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn serving(
        &self,
        file: &str,
        names: &[&str],
        addresses: &[Ipv4Addr],
    ) -> Result<(PathBuf, PathBuf)> {
        let mut params = named(User {
            name: file,
            group: "attache-tests",
        });
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names {
            params
                .subject_alt_names
                .push(SanType::DnsName((*name).try_into()?));
        }
        for address in addresses {
            params
                .subject_alt_names
                .push(SanType::IpAddress(IpAddr::V4(*address)));
        }
        let (certificate, key) = self.sign(params)?;
        self.write_pair(file, &certificate, &key)
    }

    /// Signs a client certificate; answers the files of certificate and key.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn client(&self, file: &str, user: User<'_>) -> Result<(PathBuf, PathBuf)> {
        let (certificate, key) = self.sign_client(user)?;
        self.write_pair(file, &certificate, &key)
    }

    /// Writes a kubeconfig for `user` at the API server `server`; everything is in the one file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(&self, file: &Path, user: User<'_>, server: &str) -> Result<()> {
        let (certificate, key) = self.sign_client(user)?;
        let encode = |text: &str| Value::from(BASE64.encode(text));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "attache",
            "clusters": [{ "name": "attache", "cluster": {
                "server": server, "certificate-authority-data": encode(&self.certificate),
            } }],
            "users": [{ "name": user.name, "user": {
                "client-certificate-data": encode(&certificate), "client-key-data": encode(&key),
            } }],
            "contexts": [{ "name": "attache", "context": { "cluster": "attache", "user": user.name } }],
        });
        fs::write(file, serde_json::to_vec_pretty(&config)?)
            .with_context(|| file.display().to_string())
    }

    /// Makes the key that service-account tokens are signed with: RSA, as most clusters have it.
    ///
    /// # Errors
    /// When `openssl` makes none.
    pub fn token_key(&self) -> Result<PathBuf> {
        let file = self.dir.join("service-account.key");
        let made = run(Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(&file)
            .arg("2048"))?;
        ensure!(made.status.success(), "openssl made no key");
        Ok(file)
    }

    fn sign_client(&self, user: User<'_>) -> Result<(String, String)> {
        let mut params = named(user);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<(String, String)> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn write_pair(&self, file: &str, certificate: &str, key: &str) -> Result<(PathBuf, PathBuf)> {
        let paths = (
            self.dir.join(format!("{file}.crt")),
            self.dir.join(format!("{file}.key")),
        );
        fs::write(&paths.0, certificate)?;
        fs::write(&paths.1, key)?;
        Ok(paths)
    }
}

/// The authority's own name.
const OWN_NAME: User<'static> = User {
    name: "attache-tests-ca",
    group: "attache-tests",
};

fn named(user: User<'_>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, user.name);
    params
        .distinguished_name
        .push(DnType::OrganizationName, user.group);
    params
}
