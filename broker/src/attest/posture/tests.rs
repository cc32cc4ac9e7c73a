//! Tests of posture.
