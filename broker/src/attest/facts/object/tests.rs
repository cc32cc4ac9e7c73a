//! Tests of object.
