//! Every claim about Kubernetes that leaves the cluster as it was: two nodes, one cluster for all scenarios, side by side.
//!
//! What takes something of the cluster away is in `kubernetes_faults`.

mod containers;
mod delivery;
mod ground;
mod refusals;
mod replacement;
mod shapes;
mod tokens;
