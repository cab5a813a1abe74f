//! The process: configuration as written, the plan it becomes on this machine.

pub mod config;
pub mod data_dir;
pub mod host;
pub mod plan;
