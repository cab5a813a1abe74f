//! Bugs that are planted on purpose, to show that the tests find them: only with the cargo feature `planted-bugs`, which
//! no build of the product has, and only where the environment asks for one.
//!
//! | `PLANTED_BUG` | what is wrong |
//! |---|---|
//! | `skip-sync` | a write counts as durable and is never synced |
//! | `sync-not-awaited` | a write counts as durable while its sync is still under way |
//! | `stand-still` | shard 0 stops in the middle of a turn, as soon as a file `stand-still` is in the current folder |

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "planted-bugs"),
    allow(dead_code, reason = "nothing is wrong in a product; what is built beside it decides")
)]
pub(crate) enum PlantedBug {
    SkipSync,
    SyncNotAwaited,
    StandStill,
}

/// The bug that the environment asks for.
#[cfg(feature = "planted-bugs")]
pub(crate) fn bug() -> Option<PlantedBug> {
    static BUG: std::sync::OnceLock<Option<PlantedBug>> = std::sync::OnceLock::new();
    *BUG.get_or_init(|| {
        let bug = match std::env::var("PLANTED_BUG").ok()?.as_str() {
            "skip-sync" => PlantedBug::SkipSync,
            "sync-not-awaited" => PlantedBug::SyncNotAwaited,
            "stand-still" => PlantedBug::StandStill,
            _ => return None,
        };
        tracing::error!(?bug, "a bug is planted: this is no node to keep messages in");
        Some(bug)
    })
}

/// None.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn bug() -> Option<PlantedBug> {
    None
}

/// Stops this thread for good, if it is that of shard 0, it was asked for, and whoever asked has made the file.
#[cfg(feature = "planted-bugs")]
pub(crate) fn stand_still(shard_index: u16) {
    let is_asked = || bug() == Some(PlantedBug::StandStill) && std::path::Path::new("stand-still").exists();
    while shard_index == 0 && is_asked() {
        std::thread::park();
    }
}

/// Nothing.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn stand_still(_shard_index: u16) {}
