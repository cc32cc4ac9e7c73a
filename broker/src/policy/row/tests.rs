//! Tests of row.
