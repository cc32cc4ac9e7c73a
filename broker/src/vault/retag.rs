//! Tagging rows anew under the active key of the rows' MACs.
//!
//! A row stays what it is, with the sequence of the commit that wrote it: only its tag and the epoch in its head change, and
//! its table's set hash with them. Whatever was read of it before is still so.

use attache_envelope::Table;
use attache_envelope::row::UnverifiedRow;

use super::Vault;
use super::error::VaultError;
use crate::store::{Change, LedgerError, Store};

/// A page of a table's rows.
#[derive(Debug)]
pub struct RetagPage {
    /// The table.
    pub table: Table,
    /// What commits those that have a tag of a key before.
    pub change: Change,
    /// How many they are.
    pub rows: u64,
    /// How many rows were looked at.
    pub looked: u64,
    /// The last one that was; none when there was none.
    pub last: Option<Vec<u8>>,
    /// Those that verify under no key.
    pub unreadable: Vec<Vec<u8>>,
}

impl<S: Store> Vault<S> {
    /// Prepares at most `limit` rows of a table, those after `after`.
    ///
    /// # Errors
    /// [`VaultError::Ledger`].
    pub async fn prepare_retag(
        &self,
        table: Table,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<RetagPage, VaultError> {
        let codec = self.keys().row_codec();
        let active = codec.mac_epoch();
        let rows = self.ledger.store().scan(table, b"", after, limit).await;
        let mut page = RetagPage {
            table,
            change: Change::default(),
            rows: 0,
            looked: 0,
            last: None,
            unreadable: Vec::new(),
        };
        for (key, stored) in rows.map_err(LedgerError::from)? {
            page.looked += 1;
            page.last = Some(key.clone());
            let named = UnverifiedRow::parse(&stored).map(|row| row.mac_epoch());
            if named.is_ok_and(|epoch| epoch == active) {
                continue;
            }
            // One that does not verify would fail the commit of all of them.
            if codec.verify(table, &key, &stored).is_err() {
                page.unreadable.push(key);
                continue;
            }
            page.change.reseals.push((table, key));
            page.rows += 1;
        }
        Ok(page)
    }

    /// How many rows there are that have tags.
    ///
    /// # Errors
    /// [`VaultError::Ledger`].
    pub async fn rows_with_tags(&self) -> Result<u64, VaultError> {
        let (_, tip) = self.ledger.snapshot().await?;
        let counts = tip.anchor.tables.values();
        Ok(counts.map(|sum| u64::from(sum.count())).sum())
    }
}
