//! creto-envelope.
