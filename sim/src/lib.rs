//! A node without IO: seed in, verdict out.
#![forbid(unsafe_code)]

pub mod agents;
