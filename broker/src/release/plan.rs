//! What an attested volume is to hold: each reference resolved, each field decided, each file placed.
//!
//! A [`GrantedVolume`] is the proof of that: it names the fields that exist and that policy grants, and no others, and
//! only [`plan`] makes one. Absent and not granted leave here as the same refusal.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use attache_envelope::EnvelopeError;
use attache_envelope::generation::{Generation, GenerationDigest, GenerationFile};
use attache_envelope::id::{SecretId, ValueId};
use attache_envelope::name::{FieldName, Keyspace, SecretRef, SecretVersion};

use thiserror::Error;

use crate::attest::{AttestedWorkload, Available, FilePlan, Refusal, WantedFiles, plan_files};
use crate::mounted::Named;
use crate::policy::{Decision, FieldRef, PolicySet};
use crate::store::{LedgerError, Store};
use crate::vault::{Absence, Lookup, Resolved, Vault, VaultError};

/// Why there is no plan.
#[derive(Debug, Error)]
pub(super) enum NotPlanned {
    /// Not granted, or not there, or not to be laid out.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A record could not be read.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A bug.
    #[error(transparent)]
    Digest(#[from] EnvelopeError),
}

/// A volume whose every value was granted to its workload.
pub(super) struct GrantedVolume {
    workload: Arc<AttestedWorkload>,
    secrets: Vec<GrantedSecret>,
    files: Vec<GrantedFile>,
    missing: Vec<SecretRef>,
    policies: Vec<String>,
    generation: Generation,
}

/// Fields of one version that are granted.
pub(super) struct GrantedSecret {
    pub(super) resolved: Resolved,
    /// In the order of their values; none twice in a volume.
    pub(super) fields: Vec<FieldName>,
    /// Whether the pod names the version by its number, and gets something of it.
    by_number: bool,
}

/// One file of the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GrantedFile {
    pub(super) path: String,
    pub(super) mode: u32,
    /// Index among the volume's values: the fields of all secrets, in order.
    pub(super) value: usize,
}

/// What a reference turned out to mean.
struct Meaning {
    resolved: Option<Resolved>,
    /// Whether the reference names a version.
    by_number: bool,
    available: Available,
}

/// Plans a volume as the store and the policy stand; `order` is (incarnation, seq).
///
/// # Errors
/// [`NotPlanned`].
pub(super) async fn plan<S: Store>(
    vault: &Vault<S>,
    policies: &PolicySet,
    workload: &Arc<AttestedWorkload>,
    order: (u32, u64),
) -> Result<GrantedVolume, NotPlanned> {
    let resolved = resolve(vault, workload.wanted()).await?;
    let (meanings, granted_by) = decide(policies, workload, resolved)?;
    let available: Vec<_> = meanings.iter().map(|it| it.available.clone()).collect();
    let plan = plan_files(workload.wanted(), workload.workload(), &available)?;
    let laid_out = lay_out(workload, meanings, plan, order)?;
    Ok(GrantedVolume {
        policies: granted_by.into_iter().collect(),
        ..laid_out
    })
}

/// What a volume that could not be answered names by its number.
#[derive(Debug, Default)]
pub(super) struct NamedAnyway {
    /// Versions that its workload may have.
    pub(super) versions: Vec<Named>,
    /// Keyspaces of references of which it could not be read what they mean.
    pub(super) unread: Vec<Keyspace>,
}

/// Finds what a volume names by its number, each reference by itself: one that cannot be read takes nothing from the
/// others. What the guard rails refuse, or the grants do not give, is not mounted.
pub(super) async fn named_anyway<S: Store>(
    vault: &Vault<S>,
    policies: &PolicySet,
    workload: &AttestedWorkload,
) -> NamedAnyway {
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    for one in workload.wanted().wanted() {
        let SecretRef { path, version, .. } = &one.reference;
        let meant = match version {
            Some(version) => vault.resolve(path, Some(*version)).await,
            None => Ok(Lookup::Absent(Absence::Secret)),
        };
        found.push(meant.unwrap_or_else(|error| {
            // A secret of which something is damaged is not pruned: it needs nobody to hold it.
            if !matches!(error, VaultError::Ledger(LedgerError::Damaged { .. })) {
                unread.push(path.keyspace.clone());
            }
            Lookup::Absent(Absence::Secret)
        }));
    }
    match decide(policies, workload, found) {
        Ok((meanings, _)) => NamedAnyway {
            versions: named(&number_values(meanings).0),
            unread,
        },
        Err(_refused) => NamedAnyway::default(),
    }
}

/// The versions that are named by their numbers.
fn named(secrets: &[GrantedSecret]) -> Vec<Named> {
    let named = secrets.iter().filter(|it| it.by_number);
    let named = named.map(|GrantedSecret { resolved, .. }| Named {
        keyspace: resolved.path.keyspace.clone(),
        secret: resolved.secret,
        version: resolved.version,
    });
    named.collect()
}

/// Finds what each reference means now, in the order of the pod.
async fn resolve<S: Store>(
    vault: &Vault<S>,
    wanted: &WantedFiles,
) -> Result<Vec<Lookup<Resolved>>, VaultError> {
    let mut found = Vec::with_capacity(wanted.wanted().len());
    for one in wanted.wanted() {
        let SecretRef { path, version, .. } = &one.reference;
        found.push(vault.resolve(path, *version).await?);
    }
    Ok(found)
}

/// Asks policy for every field that exists of what is wanted, and for nothing else; even with no field at all, so that
/// guard rails answer before absence does.
fn decide(
    policies: &PolicySet,
    workload: &AttestedWorkload,
    resolved: Vec<Lookup<Resolved>>,
) -> Result<(Vec<Meaning>, BTreeSet<String>), Refusal> {
    let wanted = workload.wanted().wanted().iter().map(|one| &one.reference);
    let existing: Vec<Vec<FieldName>> = wanted
        .clone()
        .zip(&resolved)
        .map(|(reference, found)| existing_fields(reference, found))
        .collect();
    let asked: Vec<FieldRef> = wanted
        .clone()
        .zip(&existing)
        .flat_map(|(reference, fields)| {
            fields.iter().map(|field| FieldRef {
                secret: reference.path.clone(),
                field: field.clone(),
            })
        })
        .collect();
    let mut decisions = policies.decide(workload, &asked)?.into_iter();
    let mut granted_by = BTreeSet::new();
    let mut meanings = Vec::with_capacity(resolved.len());
    for ((reference, found), fields) in wanted.zip(resolved).zip(existing) {
        let mut available = Available {
            fields: Vec::new(),
            true_reason: String::new(),
        };
        for field in fields {
            match decisions.next() {
                Some(Decision::Grant(grant)) if grant.field().field == field => {
                    granted_by.extend(grant.policies().iter().cloned());
                    available.fields.push(field);
                }
                Some(Decision::Denial { true_reason }) => available.true_reason = true_reason,
                // An answer to another question is none.
                Some(Decision::Grant(_)) | None => {
                    available.true_reason = "policy gave no decision for the field".into();
                }
            }
        }
        let resolved = match found {
            Lookup::Found(resolved) => {
                if let Some(field) = &reference.field
                    && !resolved.fields.contains_key(field)
                {
                    available.true_reason =
                        format!("version {} has no field {field}", resolved.version);
                }
                Some(resolved)
            }
            Lookup::Absent(absence) => {
                available.true_reason = absence.to_string();
                None
            }
        };
        meanings.push(Meaning {
            resolved,
            by_number: reference.version.is_some(),
            available,
        });
    }
    Ok((meanings, granted_by))
}

/// The fields that a reference names and that are there.
fn existing_fields(reference: &SecretRef, found: &Lookup<Resolved>) -> Vec<FieldName> {
    let Lookup::Found(resolved) = found else {
        return Vec::new();
    };
    let named = |field: &&FieldName| reference.field.as_ref().is_none_or(|named| named == *field);
    resolved.fields.keys().filter(named).cloned().collect()
}

/// Numbers the values and binds each file to one. A value that two references name is handed over once.
fn lay_out(
    workload: &Arc<AttestedWorkload>,
    meanings: Vec<Meaning>,
    plan: FilePlan,
    (incarnation, seq): (u32, u64),
) -> Result<GrantedVolume, EnvelopeError> {
    let (secrets, numbered) = number_values(meanings);
    let owner = workload.owner();
    let mut files = Vec::with_capacity(plan.files.len());
    let mut digested = Vec::with_capacity(plan.files.len());
    for file in &plan.files {
        let value = numbered
            .get(file.wanted)
            .and_then(|values| values.get(&file.field));
        let Some(&(number, value)) = value else {
            return Err(EnvelopeError::Rule("a planned file has a value"));
        };
        let (path, mode) = (file.path.as_str(), file.mode.bits());
        digested.push(GenerationFile {
            path,
            mode,
            owner,
            value,
        });
        files.push(GrantedFile {
            path: path.to_owned(),
            mode,
            value: number,
        });
    }
    Ok(GrantedVolume {
        generation: Generation {
            incarnation,
            seq,
            digest: GenerationDigest::of(&digested)?,
        },
        workload: Arc::clone(workload),
        secrets,
        files,
        missing: plan.missing,
        policies: Vec::new(),
    })
}

/// The fields of one reference, each with its value's number in the volume and its id.
type Numbered = HashMap<FieldName, (usize, ValueId)>;

/// Gives each granted value its number; answers what to load, and the numbers by reference.
fn number_values(meanings: Vec<Meaning>) -> (Vec<GrantedSecret>, Vec<Numbered>) {
    let mut numbers: HashMap<(SecretId, SecretVersion, FieldName), (usize, ValueId)> =
        HashMap::new();
    let mut secrets = Vec::new();
    let mut numbered = Vec::with_capacity(meanings.len());
    for Meaning {
        resolved,
        by_number,
        available,
    } in meanings
    {
        let mut of_reference = Numbered::new();
        if let Some(resolved) = resolved {
            let mut fields = Vec::new();
            for field in available.fields {
                let Some(value) = resolved.fields.get(&field).copied() else {
                    continue;
                };
                let next = numbers.len();
                let name = (resolved.secret, resolved.version, field.clone());
                let number = *numbers.entry(name).or_insert_with(|| {
                    fields.push(field.clone());
                    (next, value)
                });
                of_reference.insert(field, number);
            }
            secrets.push(GrantedSecret {
                resolved,
                fields,
                by_number: by_number && !of_reference.is_empty(),
            });
        }
        numbered.push(of_reference);
    }
    (secrets, numbered)
}

impl GrantedVolume {
    pub(super) fn workload(&self) -> &AttestedWorkload {
        &self.workload
    }

    pub(super) fn secrets(&self) -> &[GrantedSecret] {
        &self.secrets
    }

    /// The versions that the pod names by their numbers.
    pub(super) fn named(&self) -> Vec<Named> {
        named(&self.secrets)
    }

    pub(super) fn files(&self) -> &[GrantedFile] {
        &self.files
    }

    /// Optional references that the volume comes without.
    pub(super) fn missing(&self) -> &[SecretRef] {
        &self.missing
    }

    pub(super) fn policies(&self) -> &[String] {
        &self.policies
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }
}
