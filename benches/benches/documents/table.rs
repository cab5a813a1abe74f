//! Rows that set a figure of ours beside one of the documents', for people and as JSON.

/// One table of the documents.
pub(crate) struct Table {
    pub(crate) title: &'static str,
    pub(crate) rows: Vec<Row>,
}

/// One operation.
pub(crate) struct Row {
    operation: String,
    theirs: Figure,
    ours: Figure,
    /// What was measured, where the operation's name does not say it.
    note: String,
}

#[derive(Clone, Copy)]
pub(crate) enum Figure {
    /// Nanoseconds: less is better.
    Time(f64),
    /// Messages per second: more is better.
    Rate(f64),
    /// Bytes of memory: less is better.
    Memory(f64),
}

pub(crate) const US: f64 = 1e3;
pub(crate) const MS: f64 = 1e6;
pub(crate) const MB: f64 = 1e6;

pub(crate) fn time(operation: impl Into<String>, theirs_ns: f64, ours_ns: f64, note: impl Into<String>) -> Row {
    let (theirs, ours) = (Figure::Time(theirs_ns), Figure::Time(ours_ns));
    Row { operation: operation.into(), theirs, ours, note: note.into() }
}

/// A rate that is measured as nanoseconds per message.
pub(crate) fn rate(operation: impl Into<String>, theirs: f64, ours_ns: f64, note: impl Into<String>) -> Row {
    per_s(operation, theirs, 1e9 / ours_ns, note)
}

pub(crate) fn per_s(operation: impl Into<String>, theirs: f64, ours: f64, note: impl Into<String>) -> Row {
    let (theirs, ours) = (Figure::Rate(theirs), Figure::Rate(ours));
    Row { operation: operation.into(), theirs, ours, note: note.into() }
}

pub(crate) fn memory(operation: impl Into<String>, theirs: f64, ours: f64, note: impl Into<String>) -> Row {
    let (theirs, ours) = (Figure::Memory(theirs), Figure::Memory(ours));
    Row { operation: operation.into(), theirs, ours, note: note.into() }
}

impl Figure {
    fn text(self) -> String {
        match self {
            Self::Time(ns) if ns < 1_000.0 => format!("{ns:.0} ns"),
            Self::Time(ns) if ns < 1e6 => format!("{:.1} us", ns / 1e3),
            Self::Time(ns) => format!("{:.2} ms", ns / 1e6),
            Self::Rate(per_s) => format!("{per_s:.0}/s"),
            Self::Memory(bytes) => format!("{:.0} MB", bytes / MB),
        }
    }

    fn json(self) -> serde_json::Value {
        match self {
            Self::Time(ns) => serde_json::json!({ "us": ns / 1e3 }),
            Self::Rate(per_s) => serde_json::json!({ "per_s": per_s }),
            Self::Memory(bytes) => serde_json::json!({ "bytes": bytes }),
        }
    }

    /// How many times better `ours` is.
    fn ratio(self, ours: Self) -> f64 {
        match (self, ours) {
            (Self::Time(theirs), Self::Time(ours)) | (Self::Memory(theirs), Self::Memory(ours)) => theirs / ours,
            (Self::Rate(theirs), Self::Rate(ours)) => ours / theirs,
            _ => unreachable!("a row compares what is alike"),
        }
    }
}

fn ratio_text(ratio: f64) -> String {
    match ratio {
        ..1.0 => format!("{ratio:.2}x"),
        1.0..100.0 => format!("{ratio:.1}x"),
        _ => format!("{ratio:.0}x"),
    }
}

pub(crate) fn print(how: &str, tables: &[Table]) {
    println!("{how}");
    for Table { title, rows } in tables {
        println!("\n{title}");
        println!("  {:<42} {:>12} {:>12} {:>10}  note", "operation", "document", "measured", "ratio");
        for Row { operation, theirs, ours, note } in rows {
            let ratio = ratio_text(theirs.ratio(*ours));
            println!("  {operation:<42} {:>12} {:>12} {ratio:>10}  {note}", theirs.text(), ours.text());
        }
    }
    let short: Vec<&str> = tables
        .iter()
        .flat_map(|table| &table.rows)
        .filter(|row| row.theirs.ratio(row.ours) < 1.0)
        .map(|row| row.operation.as_str())
        .collect();
    match short.is_empty() {
        true => println!("\nno figure is behind the documents'"),
        false => println!("\nbehind the documents: {}", short.join("; ")),
    }
}

pub(crate) fn json(backend: &str, tables: &[Table]) -> serde_json::Value {
    let row = |row: &Row| {
        serde_json::json!({
            "operation": row.operation,
            "document": row.theirs.json(),
            "measured": row.ours.json(),
            "ratio": row.theirs.ratio(row.ours),
            "note": row.note,
        })
    };
    let table = |table: &Table| {
        let rows: Vec<_> = table.rows.iter().map(row).collect();
        serde_json::json!({ "table": table.title, "rows": rows })
    };
    let tables: Vec<_> = tables.iter().map(table).collect();
    serde_json::json!({ "backend": backend, "tables": tables })
}
