//! Bugs that are planted on purpose, to show that the tests find them: only with the cargo feature `planted-bugs`, which
//! no build of the product has, and only where the environment asks for one. `PLANTED_BUG=skip-sync` is a disk that says a
//! write is durable without having synced it.

/// Whether syncs are skipped.
#[cfg(feature = "planted-bugs")]
pub(crate) fn skips_sync() -> bool {
    static SKIPS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *SKIPS.get_or_init(|| {
        let planted = std::env::var_os("PLANTED_BUG").is_some_and(|bug| bug == "skip-sync");
        if planted {
            tracing::error!(
                "a bug is planted: nothing that is written is synced, and acknowledged messages will be lost"
            );
        }
        planted
    })
}

/// Never.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn skips_sync() -> bool {
    false
}
