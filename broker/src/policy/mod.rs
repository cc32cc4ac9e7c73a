//! Policy: which fields an attested workload may read.
//!
//! ```text
//! grants, guard rails -> PolicySet (Cedar)        when one of them changes
//! AttestedWorkload + fields -> Decision a field   at each release
//! ```
//! Cedar alone decides: nothing here grants by itself, what is not permitted is denied, a guard rail that fails denies
//! everything, and an error in any policy denies too (an erroring forbid would otherwise be passed over). Pure: no
//! store, no wire types, no runtime.

mod cedar;
mod grant;
mod guardrail;
mod row;
mod set;

pub use grant::{GrantError, GrantSpec};
pub use guardrail::{Condition, GuardrailSpec};
pub use row::{GrantRecord, GuardrailRecord};
pub use set::{Decision, FieldRef, PolicyError, PolicySet};
