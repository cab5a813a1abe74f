//! creto-io.
