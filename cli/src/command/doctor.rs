//! `attache doctor`.

use super::{Shell, status};
use crate::failure::Failure;
use crate::output::{Human, Report};

/// Says what there is to look at, and what to do about each.
///
/// # Errors
/// As [`crate::status`] says. [`crate::failure::Exit::Found`] when there is anything.
pub async fn doctor(shell: &Shell) -> Result<Report, Failure> {
    let session = shell.session().await?;
    let findings = status::shown(&session).await?.findings;
    let data = serde_json::json!({ "findings": findings });
    if findings.is_empty() {
        let text = "nothing that the broker knows of needs to be looked at".to_owned();
        return Report::new(&data, findings, Human::Text(text));
    }
    let text = findings.join("\n");
    Ok(Report::new(&data, findings, Human::Text(text))?.found())
}
