//! creto-node.
