//! What was found in the audit log, for people and machines.

use std::io::Write;

use creto_agent::RejectCode;
use serde_json::{Value, json};

use super::Findings;
use crate::terminal::grouped;
use crate::verb::demo::report::print_row;

impl Findings {
    /// What is not as it must be.
    pub(in crate::verb::demo) fn problems(&self, acknowledged: u64) -> Vec<String> {
        let mut problems: Vec<String> = self.messages.problems().into_iter().collect();
        // Where nothing is missing and nothing twice, all are there; if not, this count is not to be trusted.
        if problems.is_empty() && self.messages.once != acknowledged {
            let (once, all) = (grouped(self.messages.once), grouped(acknowledged));
            problems.push(format!("the audit log has {once} of {all} acknowledged messages"));
        }
        let missing = self.proofs.iter().filter(|(_, index)| index.is_none());
        problems.extend(missing.map(|(exhibit, _)| format!("the audit log has no {} to prove", exhibit.name())));
        problems
    }

    pub(in crate::verb::demo) fn to_json(&self) -> Value {
        let proofs = self
            .proofs
            .iter()
            .map(|(exhibit, index)| json!({ "event": exhibit.kind(), "code": exhibit.code().map(RejectCode::name), "leaf": index }));
        let messages = &self.messages;
        json!({
            "events": self.events,
            "recovered": self.recovered,
            "checkpoints": self.checkpoints,
            "accepted_once": messages.once,
            "missing": messages.missing,
            "accepted_twice": messages.twice,
            "unknown": messages.unknown,
            "proofs": proofs.collect::<Vec<_>>(),
            "verified_in_ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Rows of a table.
    pub(in crate::verb::demo) fn print(&self, out: &mut impl Write, acknowledged: u64) -> std::io::Result<()> {
        let remark = format!(
            "events, verified offline with the public keys in {} ms, under {}; {} were made again after a SIGKILL",
            self.took.as_millis(),
            match self.checkpoints {
                1 => "1 signed checkpoint".to_owned(),
                many => format!("{} signed checkpoints", grouped(many)),
            },
            grouped(self.recovered)
        );
        print_row(out, "audit log", &grouped(self.events), true, &remark)?;
        let messages = &self.messages;
        let remark = format!(
            "acknowledged messages that it has as accepted, once; {} missing, {} twice",
            grouped(messages.missing),
            grouped(messages.twice)
        );
        let holds = messages.problems().is_empty() && messages.once == acknowledged;
        print_row(out, "  accepted", &grouped(messages.once), holds, &remark)?;
        let (mut label, mut value) =
            ("  proven", grouped(self.proofs.iter().flat_map(|(_, index)| *index).count() as u64));
        for (exhibit, index) in &self.proofs {
            let leaf = index.map_or_else(|| "not in it".to_owned(), |index| format!("leaf {}", grouped(index)));
            print_row(out, label, &value, index.is_some(), &format!("{}: {leaf}", exhibit.name()))?;
            (label, value) = ("", String::new());
        }
        Ok(())
    }
}
