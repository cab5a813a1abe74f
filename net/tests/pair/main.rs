//! Our endpoint against a client of quinn-proto, both without sockets, in virtual time.
#![allow(clippy::unwrap_used, reason = "a test's harness fails by panicking, like the test")]

mod flow;
mod handshake;
mod harness;
mod routing;
