//! Any text as a configuration file, and one environment variable over it (the first line, `NAME=value`).
//!
//! What is understood is shown as a file that says the same. What is not is listed: every problem has a message.
#![no_main]

use std::ffi::OsString;

use creto_node::config::{Config, ConfigError};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (variable, text) = text.split_once('\n').unwrap_or(("", text));
    let env = variable.split_once('=').map(|(name, value)| (OsString::from(name), OsString::from(value)));
    match Config::parse("creto.toml", text, env) {
        Ok(config) => {
            let shown = config.to_toml();
            let again = Config::parse("shown.toml", &shown, []).expect("what is shown is understood");
            assert_eq!(again, config, "what is shown says the same");
        }
        Err(ConfigError::NotUnderstood { problems }) => {
            assert!(!problems.is_empty(), "what is not understood is said");
            assert!(problems.iter().all(|problem| !problem.message.is_empty()), "every problem is named");
        }
        Err(error @ ConfigError::Unreadable { .. }) => panic!("no file was to be read: {error}"),
    }
});
