//! The machine as a picture that needs nothing but itself: SVG, light and dark as the reader has it. Pure.

use std::fmt::Write as _;

use super::machine::{Cluster, Core, Machine, Node, Runs, Socket, Thread};

const THREAD: (u32, u32) = (104, 24);
/// Between boxes, and between a box and what is in it.
const GAP: u32 = 8;
/// Of a box's title.
const TITLE: u32 = 22;
const MARGIN: u32 = 20;
const CORES_PER_ROW: usize = 8;
/// Boxes beside each other are not wider together.
const WIDTH_MAX: u32 = 1_000;
/// The legend of a small machine breaks its line.
const LEGEND_WIDTH_MAX: u32 = 560;

const STYLE: &str = "
:root{color-scheme:light dark}
svg{--bg:#fbfbfd;--card:#fff;--ink:#1c2430;--dim:#5d6779;--rule:#d3d8e0;--soft:#eef1f5;--a:#2563eb;--b:#c2410c;--on:#fff;--c:#0f8a5f}
@media(prefers-color-scheme:dark){svg{--bg:#0f141b;--card:#171e28;--ink:#e6eaf0;--dim:#98a2b3;--rule:#344050;--soft:#222c39;--a:#7aa2ff;--b:#ff9f6e;--on:#0f141b;--c:#5ad1a2}}
text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif;fill:var(--dim)}
.h{font-size:18px;font-weight:600;fill:var(--ink)}.t{font-weight:600;fill:var(--ink)}.n{text-anchor:end}
.bg{fill:var(--bg)}.box{fill:var(--card);stroke:var(--rule)}.core{fill:none;stroke:var(--rule)}
.free{fill:var(--soft)}.closed{fill:none;stroke:var(--rule);stroke-dasharray:3 3}
.shard{fill:var(--a)}.worker{fill:var(--b)}.on{fill:var(--on)}.on.n{font-weight:600}.irq{fill:var(--c);stroke:var(--card);stroke-width:1.5}
";

/// The picture, with these lines above it.
pub(super) fn draw(machine: &Machine, heading: &str, lines: &[String]) -> String {
    let sockets = column(machine.sockets.iter().map(|socket| of_socket(socket, machine.has_sockets())).collect());
    let legend = legend(machine);
    let top = MARGIN + 24 + 18 * u32::try_from(lines.len()).unwrap_or(0) + GAP;
    let mut below = machine.far_nodes.iter().map(|node| format!("memory node {node} has no CPUs")).collect::<Vec<_>>();
    below.truncate(8);
    let text_width = lines.iter().chain(&below).map(|line| width_of(line)).max().unwrap_or(0);
    let width = sockets.width.max(legend.width).max(text_width).max(width_of(heading) * 3 / 2) + 2 * MARGIN;
    let notes = 18 * u32::try_from(below.len()).unwrap_or(0);
    let height = top + sockets.height + GAP + notes + GAP + legend.height + MARGIN;
    // Writing into a string does not fail, here and below.
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
         aria-labelledby=\"title what\">\n<title id=\"title\">{}</title>\n<desc id=\"what\">{}</desc>\n<style>{STYLE}</style>\n\
         <rect class=\"bg\" width=\"{width}\" height=\"{height}\"/>\n<text class=\"h\" x=\"{MARGIN}\" y=\"{}\">{}</text>",
        escaped(heading),
        escaped(&lines.join("; ")),
        MARGIN + 14,
        escaped(heading),
    );
    for (line, y) in lines.iter().zip((MARGIN + 36..).step_by(18)) {
        let _ = writeln!(svg, "<text x=\"{MARGIN}\" y=\"{y}\">{}</text>", escaped(line));
    }
    sockets.place(&mut svg, MARGIN, top);
    for (line, y) in below.iter().zip((top + sockets.height + GAP + 14..).step_by(18)) {
        let _ = writeln!(svg, "<text x=\"{MARGIN}\" y=\"{y}\">{}</text>", escaped(line));
    }
    legend.place(&mut svg, MARGIN, height - MARGIN - legend.height);
    svg.push_str("</svg>\n");
    svg
}

/// A part of the picture, drawn from its own upper left corner.
struct Block {
    width: u32,
    height: u32,
    svg: String,
}

impl Block {
    fn empty() -> Self {
        Self { width: 0, height: 0, svg: String::new() }
    }

    fn place(&self, svg: &mut String, x: u32, y: u32) {
        let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">\n{}</g>", self.svg);
    }
}

/// Blocks below each other.
fn column(blocks: Vec<Block>) -> Block {
    let mut all = Block::empty();
    for block in blocks {
        let y = if all.height == 0 { 0 } else { all.height + GAP };
        block.place(&mut all.svg, 0, y);
        (all.width, all.height) = (all.width.max(block.width), y + block.height);
    }
    all
}

/// Blocks beside each other while they fit, then below.
fn beside(blocks: Vec<Block>) -> Block {
    let (mut rows, mut row) = (Vec::new(), Block::empty());
    for block in blocks {
        if row.width > 0 && row.width + GAP + block.width > WIDTH_MAX {
            rows.push(std::mem::replace(&mut row, Block::empty()));
        }
        let x = if row.width == 0 { 0 } else { row.width + GAP };
        block.place(&mut row.svg, x, 0);
        (row.width, row.height) = (x + block.width, row.height.max(block.height));
    }
    rows.push(row);
    column(rows)
}

/// A block in a box with a title.
fn boxed(title: &str, inside: &Block) -> Block {
    let width = inside.width.max(width_of(title)) + 2 * GAP;
    let height = inside.height + TITLE + GAP;
    let mut svg = format!(
        "<rect class=\"box\" x=\".5\" y=\".5\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n<text class=\"t\" x=\"{GAP}\" y=\"16\">{}</text>\n",
        width - 1,
        height - 1,
        escaped(title)
    );
    inside.place(&mut svg, GAP, TITLE);
    Block { width, height, svg }
}

fn of_socket(socket: &Socket, is_boxed: bool) -> Block {
    if let [node] = &socket.nodes[..] {
        // One box for both: nearly every machine has one memory node for each socket.
        let title = match node.number {
            Some(_) => format!("{}, {}", socket.title(), node.title()),
            None => socket.title(),
        };
        let inside = of_node(node);
        return if is_boxed { boxed(&title, &inside) } else { inside };
    }
    boxed(&socket.title(), &column(socket.nodes.iter().map(|node| boxed(&node.title(), &of_node(node))).collect()))
}

fn of_node(node: &Node) -> Block {
    let of_cluster = |cluster: &Cluster| match &cluster.cache {
        Some(cache) => boxed(&cache.title(), &cores(&cluster.cores)),
        None => cores(&cluster.cores),
    };
    beside(node.clusters.iter().map(of_cluster).collect())
}

fn cores(cores: &[Core]) -> Block {
    let row = |row: &[Core]| {
        let mut all = Block::empty();
        for core in row {
            let block = of_core(core);
            let x = if all.width == 0 { 0 } else { all.width + GAP / 2 };
            block.place(&mut all.svg, x, 0);
            (all.width, all.height) = (x + block.width, all.height.max(block.height));
        }
        all
    };
    let rows: Vec<Block> = cores.chunks(CORES_PER_ROW).map(row).collect();
    let mut all = Block::empty();
    for block in rows {
        let y = if all.height == 0 { 0 } else { all.height + GAP / 2 };
        block.place(&mut all.svg, 0, y);
        (all.width, all.height) = (all.width.max(block.width), y + block.height);
    }
    all
}

/// Its threads below each other.
fn of_core(core: &Core) -> Block {
    let count = u32::try_from(core.threads.len()).unwrap_or(1);
    let (width, height) = (THREAD.0 + 6, count * (THREAD.1 + 2) + 4);
    let mut svg = format!(
        "<rect class=\"core\" x=\".5\" y=\".5\" width=\"{}\" height=\"{}\" rx=\"5\"/>\n",
        width - 1,
        height - 1
    );
    for (thread, y) in core.threads.iter().zip((3..).step_by(usize::try_from(THREAD.1 + 2).unwrap_or(26))) {
        svg.push_str(&of_thread(thread, 3, y));
    }
    Block { width, height, svg }
}

fn of_thread(thread: &Thread, x: u32, y: u32) -> String {
    let (class, is_on, text) = match thread.runs {
        Runs::Shard(index) => ("shard", true, format!("shard {index}")),
        Runs::CryptoWorker(index) => ("worker", true, format!("crypto {index}")),
        Runs::Housekeeping => ("free", false, "free".to_owned()),
        Runs::Closed => ("closed", false, "closed".to_owned()),
    };
    let on = if is_on { " class=\"on\"" } else { "" };
    let on_end = if is_on { "on n" } else { "n" };
    let (width, height) = THREAD;
    let mut svg = format!(
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"4\"/><text{on} x=\"{}\" y=\"{}\">{}</text>\
         <text class=\"{on_end}\" x=\"{}\" y=\"{}\">{text}</text>",
        x + 7,
        y + 16,
        thread.cpu,
        x + width - 7,
        y + 16
    );
    if thread.interrupts > 0 {
        let (at, middle) = (x + 36, y + height / 2);
        let _ = write!(
            svg,
            "<circle class=\"irq\" cx=\"{at}\" cy=\"{middle}\" r=\"4\"><title>interrupts of {} network queues</title></circle>",
            thread.interrupts
        );
    }
    svg.push('\n');
    svg
}

/// What the colours mean, of those that occur.
fn legend(machine: &Machine) -> Block {
    let has = |is: fn(&Thread) -> bool| machine.threads().any(is);
    let entries = [
        (has(|thread| matches!(thread.runs, Runs::Shard(_))), "shard", "runs a shard"),
        (has(|thread| matches!(thread.runs, Runs::CryptoWorker(_))), "worker", "runs a crypto worker"),
        (has(|thread| thread.runs == Runs::Housekeeping), "free", "free: control thread, kernel, others"),
        (has(|thread| thread.runs == Runs::Closed), "closed", "closed to this process"),
        (has(|thread| thread.interrupts > 0), "irq", "interrupts of network queues"),
    ];
    let mut all = Block::empty();
    let (mut x, mut y) = (0, 0);
    for (_, class, meaning) in entries.into_iter().filter(|(is_there, ..)| *is_there) {
        let entry_width = 24 + width_of(meaning);
        if x + entry_width > LEGEND_WIDTH_MAX {
            (x, y) = (0, y + 20);
        }
        let mark = match class {
            "irq" => format!("<circle class=\"irq\" cx=\"{}\" cy=\"{}\" r=\"4\"/>", x + 7, y + 9),
            _ => format!("<rect class=\"{class}\" x=\"{x}\" y=\"{}\" width=\"14\" height=\"14\" rx=\"3\"/>", y + 2),
        };
        let _ = writeln!(all.svg, "{mark}<text x=\"{}\" y=\"{}\">{meaning}</text>", x + 20, y + 13);
        (all.width, all.height) = (all.width.max(x + entry_width), y + 18);
        x += entry_width + 16;
    }
    all
}

/// About how wide a text is, rather too wide: fonts differ.
fn width_of(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(0).saturating_mul(7)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
