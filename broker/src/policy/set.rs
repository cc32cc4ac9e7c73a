//! The policy set: immutable, indexed by keyspace and secret, swapped whole.
//!
//! ```text
//! keyspace -> secret -> grants (and, once asked for, their Cedar set with every guard rail in it)
//! ```
//! Every permit is for one secret or field, so the sets that an index leaves out hold nothing that could permit; every
//! forbid is in every set. A change copies one keyspace's index and leaves all others and their sets shared.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use attache_envelope::name::{FieldName, Keyspace, SecretName, SecretPath};
use thiserror::Error;

use crate::attest::{AttestedWorkload, PublicReason, Refusal, WorkloadFacts};

use super::cedar::{Answer, GUARDRAIL_PREFIX, Language};
use super::grant::GrantSpec;
use super::guardrail::{Condition, GuardrailSpec};

/// One field of one secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldRef {
    /// The secret.
    pub secret: SecretPath,
    /// Its field.
    pub field: FieldName,
}

/// The answer for one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The workload may read it.
    Grant(Grant),
    /// It may not.
    Denial {
        /// Why, for the audit log.
        true_reason: String,
    },
}

/// A field that policy grants to the workload that was asked about. Only [`PolicySet::decide`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    field: FieldRef,
    policies: Vec<String>,
}

impl Grant {
    /// The field.
    #[must_use]
    pub fn field(&self) -> &FieldRef {
        &self.field
    }

    /// The grants that allow it, sorted: `grant/NAME` or `grant/NAME#FIELD`.
    #[must_use]
    pub fn policies(&self) -> &[String] {
        &self.policies
    }
}

/// Why a policy set cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// The schema or template of this build does not work.
    #[error("the policy language of this build is broken: {problem}")]
    Language {
        /// Cedar's words.
        problem: String,
    },
    /// A policy that does not validate against the schema.
    #[error("a policy does not validate: {problem}")]
    Invalid {
        /// Cedar's words.
        problem: String,
    },
    /// Two policies of one name, or one that cannot be added.
    #[error("the policies cannot stand in one set: {problem}")]
    Set {
        /// Cedar's words.
        problem: String,
    },
}

impl PolicyError {
    pub(super) fn set(error: impl std::fmt::Display) -> Self {
        Self::Set {
            problem: error.to_string(),
        }
    }
}

/// Every grant and guard rail, compiled.
pub struct PolicySet {
    language: Arc<Language>,
    guardrails: Arc<[GuardrailSpec]>,
    forbids: Arc<cedar_policy::PolicySet>,
    keyspaces: HashMap<Keyspace, Arc<Index>>,
}

/// The grants of a keyspace by secret. Its keys are shared: a change copies the whole index.
type Index = HashMap<Arc<SecretName>, Arc<SecretGrants>>;

/// The grants of one secret, and their Cedar set from the first time that it is asked for.
struct SecretGrants {
    grants: Vec<Arc<GrantSpec>>,
    compiled: OnceLock<Result<cedar_policy::PolicySet, PolicyError>>,
}

impl PolicySet {
    /// Compiles guard rails and grants.
    ///
    /// # Errors
    /// [`PolicyError`] for guard rails that do not validate or have one name.
    pub fn new(
        guardrails: Vec<GuardrailSpec>,
        grants: impl IntoIterator<Item = GrantSpec>,
    ) -> Result<Self, PolicyError> {
        let language = Arc::new(Language::new()?);
        let forbids = Arc::new(language.forbids(&guardrails)?);
        let mut by_secret: HashMap<Keyspace, HashMap<SecretName, Vec<Arc<GrantSpec>>>> =
            HashMap::new();
        for grant in grants {
            let SecretPath { keyspace, name } = grant.secret().clone();
            let of_keyspace = by_secret.entry(keyspace).or_default();
            of_keyspace.entry(name).or_default().push(Arc::new(grant));
        }
        let index = |of_keyspace: HashMap<SecretName, Vec<_>>| -> Index {
            let all = of_keyspace.into_iter();
            all.map(|(name, grants)| (Arc::new(name), SecretGrants::new(grants)))
                .collect()
        };
        let keyspaces = by_secret
            .into_iter()
            .map(|(keyspace, of_keyspace)| (keyspace, Arc::new(index(of_keyspace))))
            .collect();
        Ok(Self {
            language,
            guardrails: guardrails.into(),
            forbids,
            keyspaces,
        })
    }

    /// This set and one grant more, in place of one of the same name for the same secret.
    ///
    /// # Errors
    /// [`PolicyError`] when the grant does not validate; then it must not be stored.
    pub fn with_grant(&self, grant: GrantSpec) -> Result<Self, PolicyError> {
        self.language.permits(&self.forbids, [&grant])?;
        let secret = grant.secret().clone();
        let name = grant.name().clone();
        Ok(self.changed(&secret, |grants| {
            grants.retain(|other| *other.name() != name);
            grants.push(Arc::new(grant));
        }))
    }

    /// This set without a grant.
    #[must_use]
    pub fn without_grant(&self, grant: &GrantSpec) -> Self {
        self.changed(grant.secret(), |grants| {
            grants.retain(|other| other.name() != grant.name());
        })
    }

    /// The guard rails.
    #[must_use]
    pub fn guardrails(&self) -> &[GuardrailSpec] {
        &self.guardrails
    }

    /// Decides for an attested workload, one decision a field in their order.
    ///
    /// A caller passes whatever fields exist of what was asked for, even none: guard rails are asked first, so that a
    /// secret which does not exist is refused in the same words as one that does.
    ///
    /// # Errors
    /// [`PublicReason::RunsAsRoot`], [`PublicReason::Privileged`] by a guard rail; [`PublicReason::PolicyFailed`] when a
    /// guard rail cannot be evaluated.
    pub fn decide(
        &self,
        workload: &AttestedWorkload,
        fields: &[FieldRef],
    ) -> Result<Vec<Decision>, Refusal> {
        self.decide_facts(workload.facts(), fields)
    }

    pub(super) fn decide_facts(
        &self,
        facts: &WorkloadFacts,
        fields: &[FieldRef],
    ) -> Result<Vec<Decision>, Refusal> {
        let failed =
            |error: PolicyError| Refusal::new(PublicReason::PolicyFailed, error.to_string());
        let entities = self.language.entities(facts, fields).map_err(failed)?;
        let answer = self
            .language
            .ask(&self.forbids, &entities, facts, None)
            .map_err(failed)?;
        self.check_guardrails(facts, &answer)?;
        fields
            .iter()
            .map(|field| {
                let set = match self.permits(&field.secret) {
                    Ok(set) => set,
                    Err(error) => {
                        return Ok(Decision::Denial {
                            true_reason: error.to_string(),
                        });
                    }
                };
                let answer = self.language.ask(set, &entities, facts, Some(field));
                Ok(decision(field, answer.map_err(failed)?))
            })
            .collect()
    }

    /// Refuses when a guard rail forbids or fails.
    fn check_guardrails(&self, facts: &WorkloadFacts, answer: &Answer) -> Result<(), Refusal> {
        if let Some(error) = answer.errors.first() {
            return Err(Refusal::new(PublicReason::PolicyFailed, error.as_str()));
        }
        let forbids = |condition: Condition| {
            answer.policies.iter().any(|policy| {
                let name = policy.strip_prefix(GUARDRAIL_PREFIX);
                self.guardrails.iter().any(|guardrail| {
                    guardrail.condition == condition && Some(guardrail.name.as_str()) == name
                })
            })
        };
        let by = answer.policies.clone();
        let container = || facts.workload().container.clone();
        if forbids(Condition::NonRoot) {
            return Err(Refusal::from(PublicReason::RunsAsRoot {
                container: container(),
            })
            .by(by));
        }
        if forbids(Condition::Unprivileged)
            && let Some(excess) = facts.posture().excess.clone()
        {
            return Err(Refusal::from(PublicReason::Privileged(excess)).by(by));
        }
        // A forbid that is no known guard rail forbids as well.
        if !answer.policies.is_empty() {
            let true_reason = "forbidden by a policy without a public reason";
            return Err(Refusal::new(PublicReason::PolicyFailed, true_reason).by(by));
        }
        Ok(())
    }

    /// The Cedar set for a secret; that of the guard rails alone when nothing grants it.
    fn permits(&self, secret: &SecretPath) -> Result<&cedar_policy::PolicySet, PolicyError> {
        let of_keyspace = self.keyspaces.get(&secret.keyspace);
        let Some(of_secret) = of_keyspace.and_then(|index| index.get(&secret.name)) else {
            return Ok(&self.forbids);
        };
        let compile = || {
            let grants = of_secret.grants.iter().map(|grant| &**grant);
            self.language.permits(&self.forbids, grants)
        };
        of_secret
            .compiled
            .get_or_init(compile)
            .as_ref()
            .map_err(Clone::clone)
    }

    /// A copy in which the grants of one secret are changed.
    fn changed(&self, secret: &SecretPath, change: impl FnOnce(&mut Vec<Arc<GrantSpec>>)) -> Self {
        let mut keyspaces = self.keyspaces.clone();
        let mut index = keyspaces
            .get(&secret.keyspace)
            .map_or_else(Index::new, |index| Index::clone(index));
        let before = index.get(&secret.name);
        let mut grants = before.map_or_else(Vec::new, |before| before.grants.clone());
        change(&mut grants);
        if grants.is_empty() {
            index.remove(&secret.name);
        } else {
            index.insert(Arc::new(secret.name.clone()), SecretGrants::new(grants));
        }
        keyspaces.insert(secret.keyspace.clone(), Arc::new(index));
        Self {
            language: Arc::clone(&self.language),
            guardrails: Arc::clone(&self.guardrails),
            forbids: Arc::clone(&self.forbids),
            keyspaces,
        }
    }
}

impl SecretGrants {
    fn new(grants: Vec<Arc<GrantSpec>>) -> Arc<Self> {
        Arc::new(Self {
            grants,
            compiled: OnceLock::new(),
        })
    }
}

/// One field's answer: an error in any policy denies, whatever the others say.
fn decision(field: &FieldRef, answer: Answer) -> Decision {
    if let Some(error) = answer.errors.first() {
        return Decision::Denial {
            true_reason: error.clone(),
        };
    }
    if !answer.allowed {
        let true_reason = match answer.policies.first() {
            Some(policy) => format!("{policy} forbids it"),
            None => "no grant permits it".to_owned(),
        };
        return Decision::Denial { true_reason };
    }
    Decision::Grant(Grant {
        field: field.clone(),
        policies: answer.policies,
    })
}

#[cfg(test)]
mod tests;
