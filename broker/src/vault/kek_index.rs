//! The KEK index as it is gone through: nothing vouches for its rows, so whoever has them looks at the values' key rows.

use attache_envelope::Table;
use attache_envelope::body::KekIndexKey;
use attache_envelope::id::{KeyId, ValueId};

use crate::store::{LedgerError, Rows};

/// A part of a KEK's rows.
#[derive(Debug, Default)]
pub(super) struct IndexPage {
    /// The values that they name, ascending.
    pub named: Vec<ValueId>,
    /// The keys of those that name none: they have another length, and no value can have them.
    pub nameless: Vec<Vec<u8>>,
    /// The last row's key; none when there are no more rows.
    pub last: Option<Vec<u8>>,
}

/// The next `limit` rows of a KEK, those after the row of key `after`.
pub(super) async fn index_page(
    rows: &impl Rows,
    kek: KeyId,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<IndexPage, LedgerError> {
    let prefix = KekIndexKey::prefix(kek);
    let found = rows.scan(Table::KekIndex, &prefix, after, limit).await?;
    let mut page = IndexPage {
        last: found.last().map(|(key, _)| key.clone()),
        ..IndexPage::default()
    };
    for (key, _) in found {
        match KekIndexKey::decode(&key) {
            Ok(index) => page.named.push(index.value),
            Err(_) => page.nameless.push(key),
        }
    }
    Ok(page)
}
