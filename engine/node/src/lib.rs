//! The process: configuration as written, the plan it becomes on this machine, and the node that runs by it.

mod audit;
pub mod backup;
pub mod config;
mod control_process;
pub mod data_dir;
mod decisions;
mod depths;
pub mod device;
pub mod host;
mod late;
mod machine;
mod metrics;
pub mod plan;
mod recovery;
mod room;
mod run;
pub mod topology;
mod vitals;
mod workers;

pub use control_process::ControlProcess;
pub use run::{DRAIN, Node, NodeError, Recovered, Summary};
pub use vitals::Vitals;
