//! creto-policy.
