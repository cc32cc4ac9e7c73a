//! The KEK index as it is gone through: nothing vouches for its rows, so whoever has them looks at the values' key rows.

use attache_envelope::Table;
use attache_envelope::body::KekIndexKey;
use attache_envelope::id::{KeyId, ValueId};

use crate::store::{LedgerError, Rows};

/// A part of a KEK's rows.
#[derive(Debug, Default)]
pub(super) struct IndexPage {
    /// The values that they name, ascending; none when there are no more.
    pub named: Vec<ValueId>,
    /// How many name none: their keys have another length.
    pub nameless: u64,
}

/// The next values of a KEK, those after `after`, some `limit` at most. Rows that name none are passed over, however many lie
/// together.
pub(super) async fn index_page(
    rows: &impl Rows,
    kek: KeyId,
    after: Option<ValueId>,
    limit: usize,
) -> Result<IndexPage, LedgerError> {
    let prefix = KekIndexKey::prefix(kek);
    let mut after = after.map(|value| KekIndexKey { kek, value }.encode());
    let mut page = IndexPage::default();
    while page.named.is_empty() {
        let found = rows.scan(Table::KekIndex, &prefix, after.as_deref(), limit);
        let found = found.await?;
        let Some((last, _)) = found.last() else { break };
        after = Some(last.clone());
        for (key, _) in found {
            match KekIndexKey::decode(&key) {
                Ok(index) => page.named.push(index.value),
                Err(_) => page.nameless += 1,
            }
        }
    }
    Ok(page)
}
