//! What a person sees while it runs: one line for each thing that happened, and a bar. On a terminal only.

use std::io::{IsTerminal, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::book::Book;
use crate::terminal::DIM;

/// How often the bar moves.
const EVERY: Duration = Duration::from_millis(100);

/// Lines and the bar, on standard error.
pub(super) struct Stage {
    bar: ProgressBar,
    began: Instant,
    seen: bool,
}

impl Stage {
    /// A bar of so many of what `unit` says.
    pub(super) fn open(count: u64, unit: &'static str) -> Self {
        let seen = std::io::stderr().is_terminal();
        let target = if seen { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(count), target);
        let began = Instant::now();
        let template = format!("{{since:>8}}  {{msg:<8}}{{bar:30}} {{human_pos:>9}} of {{human_len}} {unit}");
        let style = ProgressStyle::with_template(&template)
            .expect("the template is a constant but for its unit")
            .with_key("since", move |_: &ProgressState, text: &mut dyn std::fmt::Write| {
                // Writing into a string does not fail.
                let _ = write!(text, "{}", since(began));
            })
            .progress_chars("━━┄");
        bar.set_style(style);
        Self { bar, began, seen }
    }

    /// Something happened.
    pub(super) fn tell(&self, what: &str) {
        if self.seen {
            let at = since(self.began);
            self.bar.suspend(|| {
                // Nobody is left to tell when standard error is closed.
                let _ = writeln!(anstream::stderr().lock(), "{DIM}{at:>8}{DIM:#}  {what}");
            });
        }
    }

    /// What goes on from now.
    pub(super) fn now(&self, what: &'static str) {
        self.bar.set_message(what);
    }

    /// So far it is.
    pub(super) fn at(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// Moves the bar with the book, until it is aborted.
    pub(super) fn follow(&self, book: &Arc<Book>) -> JoinHandle<()> {
        let (bar, book) = (self.bar.clone(), Arc::clone(book));
        tokio::spawn(async move {
            let mut tick = interval(EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                bar.set_position(book.progress().delivered);
            }
        })
    }

    /// Takes the bar away.
    pub(super) fn close(&self) {
        self.bar.finish_and_clear();
        if self.seen {
            let _ = writeln!(anstream::stderr().lock());
        }
    }
}

fn since(began: Instant) -> String {
    format!("{:.2} s", began.elapsed().as_secs_f64())
}
