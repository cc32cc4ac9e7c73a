//! Tests of workload.
