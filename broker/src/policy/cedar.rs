//! The meeting point with Cedar: our schema, our one template, and the types on both sides.
//!
//! A grant is a link of the template to a class of workloads and to a secret or field, so no policy text is ever put
//! together from names. A guard rail is a constant forbid. Everything is validated strictly against the schema.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use cedar_policy::{
    Authorizer, Context, Decision as CedarDecision, Entities, Entity, EntityId, EntityTypeName,
    EntityUid, Policy, PolicyId, PolicySet, Request, RestrictedExpression, Schema, SlotId,
    Template, ValidationMode, Validator,
};

use crate::attest::WorkloadFacts;

use super::grant::GrantSpec;
use super::guardrail::GuardrailSpec;
use super::set::{FieldRef, PolicyError};

const SCHEMA: &str = include_str!("attache.cedarschema");
const GRANT: &str = include_str!("grant.cedar");
const GRANT_TEMPLATE: &str = "grant";

/// What begins the id of a grant's policy.
pub(super) const GRANT_PREFIX: &str = "grant/";
/// What begins the id of a guard rail's policy.
pub(super) const GUARDRAIL_PREFIX: &str = "guardrail/";

/// Parsed once: what every policy set of ours is made with.
pub(super) struct Language {
    validator: Validator,
    template: Template,
    authorizer: Authorizer,
    class: EntityTypeName,
    workload: EntityTypeName,
    secret: EntityTypeName,
    field: EntityTypeName,
    read: EntityUid,
}

/// Cedar's answer, with names in order.
pub(super) struct Answer {
    /// Whether a permit held and no forbid.
    pub(super) allowed: bool,
    /// The policies that determined it, sorted.
    pub(super) policies: Vec<String>,
    /// The policies that could not be evaluated.
    pub(super) errors: Vec<String>,
}

impl Language {
    /// Parses the constants.
    ///
    /// # Errors
    /// [`PolicyError::Language`]: this build is broken.
    pub(super) fn new() -> Result<Self, PolicyError> {
        let broken = |what: &str| PolicyError::Language {
            problem: what.to_owned(),
        };
        let (schema, _) =
            Schema::from_cedarschema_str(SCHEMA).map_err(|error| broken(&error.to_string()))?;
        let id = PolicyId::new(GRANT_TEMPLATE);
        let template =
            Template::parse(Some(id), GRANT).map_err(|error| broken(&error.to_string()))?;
        let named = |name: &str| EntityTypeName::from_str(name).map_err(|_| broken(name));
        Ok(Self {
            validator: Validator::new(schema),
            template,
            authorizer: Authorizer::new(),
            class: named("Attache::Class")?,
            workload: named("Attache::Workload")?,
            secret: named("Attache::Secret")?,
            field: named("Attache::Field")?,
            read: uid(&named("Attache::Action")?, "read"),
        })
    }

    /// The set of the guard rails alone.
    ///
    /// # Errors
    /// [`PolicyError`], also for a policy that does not validate.
    pub(super) fn forbids(&self, guardrails: &[GuardrailSpec]) -> Result<PolicySet, PolicyError> {
        let mut set = PolicySet::new();
        set.add_template(self.template.clone())
            .map_err(PolicyError::set)?;
        for guardrail in guardrails {
            let id = PolicyId::new(format!("{GUARDRAIL_PREFIX}{}", guardrail.name));
            let policy = Policy::parse(Some(id), guardrail.condition.cedar());
            set.add(policy.map_err(PolicyError::set)?)
                .map_err(PolicyError::set)?;
        }
        self.validate(&set)?;
        Ok(set)
    }

    /// The guard rails and the grants of one secret.
    ///
    /// # Errors
    /// [`PolicyError`], also for a policy that does not validate.
    pub(super) fn permits<'a>(
        &self,
        forbids: &PolicySet,
        grants: impl IntoIterator<Item = &'a GrantSpec>,
    ) -> Result<PolicySet, PolicyError> {
        let mut set = forbids.clone();
        for grant in grants {
            let id = format!("{GRANT_PREFIX}{}", grant.name());
            let secret = grant.secret().to_string();
            if grant.fields().is_empty() {
                self.link(&mut set, id, grant, uid(&self.secret, &secret))?;
                continue;
            }
            for field in grant.fields() {
                let resource = uid(&self.field, &format!("{secret}#{field}"));
                self.link(&mut set, format!("{id}#{field}"), grant, resource)?;
            }
        }
        self.validate(&set)?;
        Ok(set)
    }

    /// Adds a permit of the grant's class for one resource.
    fn link(
        &self,
        set: &mut PolicySet,
        id: String,
        grant: &GrantSpec,
        resource: EntityUid,
    ) -> Result<(), PolicyError> {
        let class = uid(&self.class, &grant.to().to_string());
        let slots = HashMap::from([(SlotId::principal(), class), (SlotId::resource(), resource)]);
        set.link(PolicyId::new(GRANT_TEMPLATE), PolicyId::new(id), slots)
            .map_err(PolicyError::set)
    }

    /// Validates a set strictly against the schema.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`] with the first finding.
    pub(super) fn validate(&self, set: &PolicySet) -> Result<(), PolicyError> {
        let result = self.validator.validate(set, ValidationMode::Strict);
        match result.validation_errors().next() {
            None => Ok(()),
            Some(error) => Err(PolicyError::Invalid {
                problem: error.to_string(),
            }),
        }
    }

    /// The workload and the fields as entities. Every attribute of the schema is given: none is ever missing.
    ///
    /// # Errors
    /// [`PolicyError::Language`]: this build is broken.
    pub(super) fn entities<'a>(
        &self,
        facts: &WorkloadFacts,
        fields: impl IntoIterator<Item = &'a FieldRef>,
    ) -> Result<Entities, PolicyError> {
        let posture = facts.posture();
        let flag = RestrictedExpression::new_bool;
        let attributes = HashMap::from([
            ("nonRoot".to_owned(), flag(posture.is_non_root())),
            ("unprivileged".to_owned(), flag(posture.is_unprivileged())),
            (
                "privilegeEscalation".to_owned(),
                flag(posture.privilege_escalation),
            ),
            ("hostUsers".to_owned(), flag(posture.host_users)),
            (
                "ownerUid".to_owned(),
                RestrictedExpression::new_long(posture.owner.uid.into()),
            ),
            (
                "image".to_owned(),
                RestrictedExpression::new_string(facts.image().unwrap_or_default().to_owned()),
            ),
        ]);
        let name = facts.workload().to_string();
        let classes = HashSet::from([uid(&self.class, &name)]);
        let principal =
            Entity::new(uid(&self.workload, &name), attributes, classes).map_err(|error| {
                PolicyError::Language {
                    problem: error.to_string(),
                }
            })?;
        let fields = fields.into_iter().map(|field| {
            let secret = uid(&self.secret, &field.secret.to_string());
            Entity::new_no_attrs(self.resource(field), HashSet::from([secret]))
        });
        Entities::from_entities(std::iter::once(principal).chain(fields), None).map_err(|error| {
            PolicyError::Language {
                problem: error.to_string(),
            }
        })
    }

    /// Asks whether the workload may read the field; none asks of no field in particular.
    ///
    /// # Errors
    /// [`PolicyError::Language`]: this build is broken.
    pub(super) fn ask(
        &self,
        set: &PolicySet,
        entities: &Entities,
        facts: &WorkloadFacts,
        field: Option<&FieldRef>,
    ) -> Result<Answer, PolicyError> {
        let principal = uid(&self.workload, &facts.workload().to_string());
        let resource = field.map_or_else(|| uid(&self.field, ""), |field| self.resource(field));
        let request = Request::new(
            principal,
            self.read.clone(),
            resource,
            Context::empty(),
            None,
        )
        .map_err(|error| PolicyError::Language {
            problem: error.to_string(),
        })?;
        let response = self.authorizer.is_authorized(&request, set, entities);
        let diagnostics = response.diagnostics();
        let mut policies: Vec<String> = diagnostics.reason().map(ToString::to_string).collect();
        policies.sort();
        let mut errors: Vec<String> = diagnostics.errors().map(ToString::to_string).collect();
        errors.sort();
        let allowed = response.decision() == CedarDecision::Allow;
        Ok(Answer {
            allowed,
            policies,
            errors,
        })
    }

    fn resource(&self, field: &FieldRef) -> EntityUid {
        uid(&self.field, &format!("{}#{}", field.secret, field.field))
    }

    #[cfg(test)]
    pub(super) fn schema(&self) -> &Schema {
        self.validator.schema()
    }
}

fn uid(of: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(of.clone(), EntityId::new(id))
}
