//! One file per verb; each has one `run`.

pub(crate) mod agent;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod channel;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod control;
pub(crate) mod demo;
pub(crate) mod dlq;
pub(crate) mod doctor;
pub(crate) mod init;
pub(crate) mod mailbox;
pub(crate) mod policy;
pub(crate) mod proof;
pub(crate) mod recv;
pub(crate) mod request;
pub(crate) mod respond;
pub(crate) mod restore;
pub(crate) mod send;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod thread;
pub(crate) mod token;
pub(crate) mod topology;
pub(crate) mod wal;
