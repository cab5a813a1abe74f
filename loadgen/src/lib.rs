//! creto-loadgen.
