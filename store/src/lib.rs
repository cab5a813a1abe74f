//! creto-store.
