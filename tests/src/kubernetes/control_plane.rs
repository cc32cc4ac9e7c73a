//! etcd and a real API server: enough for whatever speaks to a cluster and needs no pod to run.

use std::{
    ffi::OsString,
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    Release,
    authority::{ADMIN, Authority, User},
    estate::Estate,
    kubectl::Kubectl,
    service::Service,
};

/// The service addresses; the first is the API server's own.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The API server as a service.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Who the tokens say has issued them.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A running API server with its store. Taken down when dropped, and when this program ends in whatever way.
pub struct ControlPlane {
    /// Dropped first: it ends the services, faster than they would one by one.
    estate: Option<Estate>,
    etcd: Service,
    /// The API server, for whoever wants to see what happens without it.
    pub api_server: Service,
    /// Signs certificates that the API server takes for its clients'.
    pub authority: Authority,
    port: u16,
    dir: PathBuf,
    cgroup: String,
    release: Release,
}

/// What an API server is told beyond what every one is told.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// The address that nodes reach it at; without one it is for this machine alone, and has no endpoints in the cluster.
    pub advertised: Option<Ipv4Addr>,
    /// More arguments.
    pub arguments: Vec<String>,
}

impl ControlPlane {
    /// Starts etcd and an API server on loopback, on a free port.
    ///
    /// # Errors
    /// When one of them does not become ready, with its log's end.
    pub fn start() -> Result<Self> {
        Self::start_with(&Release::default(), &Wishes::default())
    }

    /// As [`ControlPlane::start`], of another release and with wishes.
    ///
    /// # Errors
    /// As [`ControlPlane::start`].
    pub fn start_with(release: &Release, wishes: &Wishes) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let cgroup = format!(
            "attache-control-plane-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = tempfile::Builder::new().prefix("attache-").tempdir()?;
        let estate = Estate::take(dir.path(), &cgroup)?;
        // Its reaper removes it.
        let _ = dir.keep();
        let mut control_plane = Self::lay_out(&estate.dir, &cgroup, release, wishes)?;
        control_plane.estate = Some(estate);
        control_plane.start_services()?;
        Ok(control_plane)
    }

    /// Writes what both services need into `dir`; starts nothing.
    pub(super) fn lay_out(
        dir: &Path,
        cgroup: &str,
        release: &Release,
        wishes: &Wishes,
    ) -> Result<Self> {
        let logs = dir.join("log");
        fs::create_dir_all(&logs)?;
        let authority = Authority::create(&dir.join("pki"))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let admin = dir.join("kubeconfig");
        authority.kubeconfig(&admin, ADMIN, &format!("https://127.0.0.1:{port}"))?;

        let socket = format!("unix://{}", dir.join("etcd.sock").display());
        let peers = format!("unix://{}", dir.join("etcd-peers.sock").display());
        let etcd = Service::new("etcd", &release.tool("etcd"), cgroup, &logs)?.args([
            format!("--data-dir={}", dir.join("etcd").display()),
            format!("--listen-client-urls={socket}"),
            format!("--advertise-client-urls={socket}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
            "--log-level=warn".to_owned(),
            // Nothing here is to survive this machine.
            "--unsafe-no-fsync".to_owned(),
        ]);
        let program = release.component("kube-apiserver");
        let arguments = api_server_arguments(&authority, port, &socket, wishes)?;
        let api_server = Service::new("kube-apiserver", &program, cgroup, &logs)?.args(arguments);
        Ok(Self {
            estate: None,
            etcd,
            api_server,
            authority,
            port,
            dir: dir.to_owned(),
            cgroup: cgroup.to_owned(),
            release: release.clone(),
        })
    }

    /// Starts etcd, then the API server, and waits until it is ready.
    pub(super) fn start_services(&self) -> Result<()> {
        self.etcd.start()?;
        self.start_api_server()
    }

    /// Starts the API server, the first time or after it was stopped, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready, with its log's end.
    pub fn start_api_server(&self) -> Result<()> {
        self.api_server.start()?;
        let kubectl = self.kubectl();
        self.api_server.wait_until("ready", || {
            // kubectl is slow to say that nobody listens.
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
            kubectl.run(&["get", "--raw", "/readyz"]).ok()
        })?;
        Ok(())
    }

    /// Where the API server is: `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The port that it listens on, at every address that it has.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder that everything of it is in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name of the control group that every process of it is in.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The certificate that its own is signed with (PEM).
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.authority.certificate()
    }

    /// The kubeconfig of a user who may do everything.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// `kubectl` for a user who may do everything.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.release.component("kubectl"), &self.kubeconfig())
    }

    /// The key that service-account tokens are signed with.
    #[must_use]
    pub fn token_key(&self) -> PathBuf {
        self.dir.join("pki/service-account.key")
    }

    /// Lets go of its services.
    pub(super) fn let_go(&self) {
        self.etcd.release();
        self.api_server.release();
    }

    /// What it was built of.
    #[must_use]
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// Writes what shows a service account to this API server, into a folder that is made: `ca.crt` and `token`.
    ///
    /// # Errors
    /// When there is no such account, or the files cannot be written.
    pub fn credentials(&self, folder: &Path, namespace: &str, account: &str) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::copy(self.ca_file(), folder.join("ca.crt"))?;
        let token = self
            .kubectl()
            .run(&["create", "token", "-n", namespace, account])?;
        Ok(fs::write(folder.join("token"), token)?)
    }

    /// Makes a namespace and service accounts in it; the first of them has a cluster role of its name with these rules.
    ///
    /// # Errors
    /// When the API server refuses one of them.
    pub fn furnish(&self, namespace: &str, accounts: &[&str], rules: &Value) -> Result<()> {
        const GROUP: &str = "rbac.authorization.k8s.io";
        let kubectl = self.kubectl();
        let metadata = json!({ "name": namespace });
        kubectl
            .create(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }))?;
        for name in accounts {
            let metadata = json!({ "namespace": namespace, "name": name });
            kubectl.create(
                &json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata }),
            )?;
        }
        let name = accounts.first().context("an account for the role")?;
        let api = format!("{GROUP}/v1");
        let metadata = json!({ "name": name });
        kubectl.create(&json!({
            "apiVersion": api, "kind": "ClusterRole", "metadata": metadata, "rules": rules,
        }))?;
        kubectl.create(&json!({
            "apiVersion": api, "kind": "ClusterRoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": name },
            "subjects": [{ "kind": "ServiceAccount", "namespace": namespace, "name": name }],
        }))?;
        Ok(())
    }

    /// Takes it down.
    ///
    /// # Errors
    /// When something of it is left.
    pub fn stop(mut self) -> Result<()> {
        self.estate.take().map_or(Ok(()), Estate::clear)
    }
}

fn api_server_arguments(
    authority: &Authority,
    port: u16,
    etcd: &str,
    wishes: &Wishes,
) -> Result<Vec<OsString>> {
    let mut addresses = vec![Ipv4Addr::LOCALHOST, API_SERVICE];
    addresses.extend(wishes.advertised);
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let (certificate, key) = authority.serving("kube-apiserver", &names, &addresses)?;
    let to_kubelet = User {
        name: "kube-apiserver",
        group: "system:masters",
    };
    let (kubelet_certificate, kubelet_key) = authority.client("kubelet-client", to_kubelet)?;
    let token_key = authority.token_key()?;
    let mut arguments: Vec<OsString> = [
        format!("--etcd-servers={etcd}"),
        format!("--secure-port={port}"),
        format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        format!("--service-account-issuer={ISSUER}"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        // The names of the nodes are known nowhere.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        // As said, not made up for a year, so that an expired token can be seen.
        "--service-account-extend-token-expiration=false".to_owned(),
    ]
    .into_iter()
    .map(OsString::from)
    .collect();
    for (flag, file) in [
        ("tls-cert-file", &certificate),
        ("tls-private-key-file", &key),
        ("client-ca-file", &authority.certificate()),
        ("service-account-key-file", &token_key),
        ("service-account-signing-key-file", &token_key),
        ("kubelet-client-certificate", &kubelet_certificate),
        ("kubelet-client-key", &kubelet_key),
    ] {
        let mut argument = OsString::from(format!("--{flag}="));
        argument.push(file);
        arguments.push(argument);
    }
    arguments.extend(match wishes.advertised {
        Some(address) => vec![format!("--advertise-address={address}").into()],
        // An API server on loopback refuses to advertise itself.
        None => vec![
            "--bind-address=127.0.0.1".into(),
            "--endpoint-reconciler-type=none".into(),
        ],
    });
    arguments.extend(wishes.arguments.iter().map(OsString::from));
    Ok(arguments)
}
