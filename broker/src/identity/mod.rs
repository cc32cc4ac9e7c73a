//! Who may call: operators, nodes, bans, join tokens, and the certificates that they get.
//!
//! ```text
//! verified certificate -> admit: not banned, its key recorded and live -> Caller::Node | Caller::Operator
//! ```
//! Every RPC passes `admit`; a key of ours that is not live comes from a copy of the identity, which is banned on the
//! spot. The rows are the truth; the view in memory follows each commit. This module must never trust a name that a
//! request carries: names come from certificates, tokens and the cluster's own record.

pub mod approval;
mod authority;
pub(crate) mod ca_rows;
mod gate;
mod lacking;
mod one_time;
mod operator_code;
mod plugin_version;
mod presence;
mod publish;
mod recorded;
mod rows;
mod startup;
mod view;

pub use authority::{Authority, AuthorityError, Ca, CaCertificates, Cas};
pub(crate) use gate::READMISSION;
pub use gate::{
    CaChangeError, CaChanged, CutOff, EnrollError, Gate, InNeed, LateError, LateRequest, NameTaken,
    NobodyWaits, READMITS_FOR, Readmission, SecondEnrollment, WaitsFor, keep_ca,
};
pub use lacking::{Lacking, Lacks};
pub use one_time::{
    JOIN_TOKEN_LIFETIME, JoinToken, Malformed, OPERATOR_CODE_LIFETIME, OperatorCode,
};
pub use operator_code::OperatorCodeRecord;
pub use plugin_version::PluginVersion;
pub use publish::keep_published;
pub use recorded::{PREVIOUS_GRACE, RecordedKey, RecordedKeys, Standing};
pub use rows::{BanRecord, JoinTokenRecord, NodeRecord, OperatorRecord, Role};
pub(crate) use rows::{ms, read, text, time};
pub use startup::keep_untainted;
pub use view::{Caller, Directory, DirectoryError, NotAdmitted, View};
