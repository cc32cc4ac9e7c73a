//! Tests of folder.
