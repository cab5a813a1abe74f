//! creto-benches.
