//! creto-net.
