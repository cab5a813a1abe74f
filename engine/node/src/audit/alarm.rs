//! Security monitoring: looks at each event that the audit log is told, on that log's thread and not on the message's path.

use creto_audit::budget::Budget;
use creto_audit::monitor::{Limits, Monitor, what_to_do};
use creto_audit::{Event, What};

/// The rules, and the alerts that they raised and that are not in the log yet.
pub(super) struct Alarm {
    monitor: Monitor,
    /// Whoever makes up agents makes alerts: beyond some they are only counted.
    budget: Budget,
    raised: Vec<What>,
}

impl Alarm {
    pub(super) fn new(limits: Limits) -> Self {
        Self { monitor: Monitor::new(limits), budget: Budget::default(), raised: Vec::new() }
    }

    /// Takes an event. What was found again after a crash was seen when it happened, or is too old.
    pub(super) fn see(&mut self, event: &Event) {
        if event.is_recovered() {
            return;
        }
        let Some(alert) = self.monitor.see(event.time_ms(), &event.what) else { return };
        if let What::AlertRaised { agent, peer, count, window_s, rule, .. } = alert {
            let agent = (!agent.is_zero()).then(|| agent.to_string());
            let (rule, next, peer) = (rule.word(), what_to_do(rule), peer.address());
            tracing::warn!(rule, agent, ?peer, count, window_s, "security alert: {next}");
        }
        self.raised.extend(self.budget.admit(alert, event.time_ms()));
    }

    /// The alerts since this was asked last, and what was only counted of them.
    pub(super) fn take(&mut self, with_counted: bool) -> Vec<What> {
        let mut raised = std::mem::take(&mut self.raised);
        if with_counted && self.budget.has_merged() {
            raised.extend(self.budget.take_merged());
        }
        raised
    }
}
