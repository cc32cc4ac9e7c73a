//! Which backups hold what was just destroyed.

use attache_proto::attache::v1 as pb;
use serde::Serialize;

use super::{or_dash, time, uuid_text};

/// A backup that has it.
#[derive(Debug, Serialize)]
pub(super) struct ByJson {
    backup: String,
    created: Option<String>,
}

/// The backups that a broker names.
pub(super) fn by(backups: &[pb::Backup]) -> Vec<ByJson> {
    let by = |backup: &pb::Backup| ByJson {
        backup: uuid_text(&backup.id),
        created: time(backup.created),
    };
    backups.iter().map(by).collect()
}

/// The same in words. `count`: how many there are.
pub(super) fn told(backups: &[ByJson], count: u64) -> String {
    if backups.is_empty() {
        return "no backup on record has it".to_owned();
    }
    let named = backups
        .iter()
        .map(|it| format!("{} ({})", it.backup, or_dash(it.created.as_deref())));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = count.saturating_sub(backups.len() as u64);
    let more = if more == 0 {
        String::new()
    } else {
        format!(" and {more} older ones")
    };
    format!("backups on record that have it: {named}{more}")
}
