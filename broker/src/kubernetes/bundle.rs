//! The broker's trust bundle, where the node plugins of a cluster read it: an object that their pods mount.
//!
//! ```text
//! certificates.k8s.io v1 or v1beta1 serves clustertrustbundles, and the broker may: ClusterTrustBundle attache.dev:broker:bundle
//! else: ConfigMap attache-bundle, key trust-bundle.pem, in the plugins' own namespace
//! ```
//! It is read, and written only where it differs, with the resource version that was read. Whoever may write that object
//! can make new nodes believe another broker: the roles of the chart let the broker alone.

use attache_envelope::name::Namespace;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Call, Client, Operation};
use super::error::ApiError;
use super::questions::{body, read};

/// The ClusterTrustBundle's name; it must begin with the signer's, with a colon for the slash.
const CLUSTER_TRUST_BUNDLE: &str = "attache.dev:broker:bundle";
/// The signer that it is of.
const SIGNER: &str = "attache.dev/broker";
/// The ConfigMap's name.
const CONFIG_MAP: &str = "attache-bundle";
/// Its key.
const CONFIG_MAP_KEY: &str = "trust-bundle.pem";
/// The versions of certificates.k8s.io that may serve ClusterTrustBundles, best first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// Where the bundle is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// In the ClusterTrustBundle.
    ClusterTrustBundle,
    /// In the ConfigMap.
    ConfigMap,
}

#[derive(Deserialize)]
struct Served {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
}

impl Client {
    /// Makes the published bundle this one.
    ///
    /// # Errors
    /// [`ApiError`]; [`ApiError::Conflict`] when somebody else wrote it at the same moment.
    ///
    /// # Cancel safety
    /// May be dropped at any time; the bundle is then the old or the new one.
    pub async fn publish_bundle(
        &self,
        pem: &str,
        plugins: &Namespace,
    ) -> Result<Published, ApiError> {
        if let Some(version) = self.bundle_version().await? {
            match self.put_cluster_trust_bundle(version, pem).await {
                Ok(()) => return Ok(Published::ClusterTrustBundle),
                // Its roles name the other object.
                Err(ApiError::Forbidden { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let collection = format!("/api/v1/namespaces/{plugins}/configmaps");
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": CONFIG_MAP, "namespace": plugins.as_str()},
            "data": {CONFIG_MAP_KEY: pem},
        });
        self.ensure(&collection, CONFIG_MAP, "data", object).await?;
        Ok(Published::ConfigMap)
    }

    /// The version of certificates.k8s.io that serves ClusterTrustBundles.
    async fn bundle_version(&self) -> Result<Option<&'static str>, ApiError> {
        for version in VERSIONS {
            let path = format!("/apis/certificates.k8s.io/{version}");
            let served: Option<Served> = self.find(read(Operation::Bundle, path)).await?;
            let resources = served.into_iter().flat_map(|served| served.resources);
            if resources
                .into_iter()
                .any(|it| it.name == "clustertrustbundles")
            {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    async fn put_cluster_trust_bundle(&self, version: &str, pem: &str) -> Result<(), ApiError> {
        let collection = format!("/apis/certificates.k8s.io/{version}/clustertrustbundles");
        let object = json!({
            "apiVersion": format!("certificates.k8s.io/{version}"), "kind": "ClusterTrustBundle",
            "metadata": {"name": CLUSTER_TRUST_BUNDLE},
            "spec": {"signerName": SIGNER, "trustBundle": pem},
        });
        self.ensure(&collection, CLUSTER_TRUST_BUNDLE, "spec", object)
            .await
    }

    /// Makes or changes an object until its `part` is that of `wanted`.
    async fn ensure(
        &self,
        collection: &str,
        name: &str,
        part: &str,
        wanted: Value,
    ) -> Result<(), ApiError> {
        let path = format!("{collection}/{name}");
        let found: Option<Value> = self.find(read(Operation::Bundle, path.clone())).await?;
        let (method, path, object) = match found {
            Some(found) if found.get(part) == wanted.get(part) => return Ok(()),
            // All else of it stays, its resource version and what Helm knows it by too.
            Some(found) => (Method::PUT, path, with_part(found, part, wanted)),
            None => (Method::POST, collection.to_owned(), wanted),
        };
        let call = Call {
            operation: Operation::Bundle,
            method,
            path,
            body: Some(body(Operation::Bundle, &object)?),
        };
        let _written: Value = self.ask(call).await?;
        Ok(())
    }
}

/// The object that was found, with that part of the wanted one.
fn with_part(mut found: Value, part: &str, mut wanted: Value) -> Value {
    if let (Some(object), Some(wanted)) = (found.as_object_mut(), wanted.get_mut(part)) {
        object.insert(part.to_owned(), wanted.take());
    }
    found
}
