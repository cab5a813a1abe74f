//! The machine as boxes of characters.

use anstyle::Style;

use super::machine::{Cluster, Core, Machine, Node, Runs, Socket, Thread};
use crate::terminal::{CAUTION, DIM, GOOD};

/// Widest picture: what fits into a terminal of a hundred columns.
const WIDTH_MAX: usize = 98;
/// Cores of a row: as many of these as fit.
const CORES_PER_ROW: [usize; 3] = [8, 4, 2];

/// The characters of frames and marks.
pub(super) struct Glyphs {
    /// From left to right: of a top line, of a line between rows, of a bottom line.
    top: [char; 3],
    middle: [char; 3],
    bottom: [char; 3],
    across: char,
    down: char,
    pub(super) free: char,
}

pub(super) const UNICODE: Glyphs = Glyphs {
    top: ['┌', '┬', '┐'],
    middle: ['├', '┼', '┤'],
    bottom: ['└', '┴', '┘'],
    across: '─',
    down: '│',
    free: '·',
};

pub(super) const ASCII: Glyphs =
    Glyphs { top: ['+'; 3], middle: ['+'; 3], bottom: ['+'; 3], across: '-', down: '|', free: '.' };

impl Glyphs {
    /// By what the environment says of the terminal's characters (locale(7): the first of these that is set counts).
    pub(super) fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let locale =
            ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| variable(name).filter(|it| !it.is_empty()));
        let charset = locale.unwrap_or_default().to_ascii_lowercase();
        if charset.contains("utf-8") || charset.contains("utf8") { UNICODE } else { ASCII }
    }
}

/// A line with styles, and how wide it is without them.
struct Line {
    text: String,
    chars: usize,
}

impl Line {
    fn plain(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { chars: text.chars().count(), text }
    }

    fn push(&mut self, style: Style, text: &str) {
        self.chars += text.chars().count();
        self.text.push_str(&format!("{style}{text}{style:#}"));
    }

    fn pad_to(&mut self, chars: usize) {
        self.text.push_str(&" ".repeat(chars.saturating_sub(self.chars)));
        self.chars = self.chars.max(chars);
    }
}

/// The picture, and below it what its marks mean.
pub(super) fn draw(machine: &Machine, glyphs: &Glyphs) -> String {
    let cell = Cell::of(machine, glyphs);
    let mut lines = Vec::new();
    for socket in &machine.sockets {
        let inside = socket_lines(socket, &cell, machine.has_sockets());
        lines.extend(inside);
    }
    if !machine.far_nodes.is_empty() {
        let nodes: Vec<String> = machine.far_nodes.iter().map(ToString::to_string).collect();
        lines.push(Line::plain(format!("memory node {} has no CPUs", nodes.join(", "))));
    }
    let mut text: String = lines.into_iter().map(|line| line.text + "\n").collect();
    for (mark, meaning) in legend(machine, glyphs) {
        text.push_str(&format!("  {DIM}{mark:4} {meaning}{DIM:#}\n"));
    }
    text
}

fn socket_lines(socket: &Socket, cell: &Cell, is_framed: bool) -> Vec<Line> {
    let mut inside = Vec::new();
    let [node] = &socket.nodes[..] else {
        for node in &socket.nodes {
            inside.extend(frame(&node.title(), node_lines(node, cell), cell.glyphs));
        }
        return frame(&socket.title(), inside, cell.glyphs);
    };
    inside.extend(node_lines(node, cell));
    // One box for both: nearly every machine has one memory node for each socket.
    let title = match node.number {
        Some(_) => format!("{}, {}", socket.title(), node.title()),
        None => socket.title(),
    };
    if is_framed { frame(&title, inside, cell.glyphs) } else { inside }
}

fn node_lines(node: &Node, cell: &Cell) -> Vec<Line> {
    let of_cluster = |cluster: &Cluster| match &cluster.cache {
        Some(cache) => frame(&cache.title(), cell.grid(&cluster.cores), cell.glyphs),
        None => cell.grid(&cluster.cores),
    };
    beside(node.clusters.iter().map(of_cluster).collect())
}

/// Blocks one after the other, and beside each other while they fit.
fn beside(blocks: Vec<Vec<Line>>) -> Vec<Line> {
    // Frames of a socket and a node, with their space, are around it.
    let room = WIDTH_MAX - 8;
    let mut rows: Vec<Vec<Line>> = Vec::new();
    for block in blocks {
        let width = |lines: &[Line]| lines.iter().map(|line| line.chars).max().unwrap_or(0);
        match rows.last_mut() {
            Some(row) if width(row) + 1 + width(&block) <= room && row.len() == block.len() => {
                let left = width(row);
                for (line, more) in row.iter_mut().zip(block) {
                    line.pad_to(left + 1);
                    line.chars += more.chars;
                    line.text.push_str(&more.text);
                }
            }
            _ => rows.push(block),
        }
    }
    rows.into_iter().flatten().collect()
}

/// Lines with a frame around them, which has a title.
fn frame(title: &str, lines: Vec<Line>, glyphs: &Glyphs) -> Vec<Line> {
    let Glyphs { top, bottom, across, down, .. } = glyphs;
    let title = format!("{across} {title} ");
    let inside = lines.iter().map(|line| line.chars + 2).chain([title.chars().count() + 1]).max().unwrap_or(2);
    let line = |ends: &[char; 3], from: &str| {
        let rest: String = std::iter::repeat_n(*across, inside - from.chars().count()).collect();
        Line::plain(format!("{}{from}{rest}{}", ends[0], ends[2]))
    };
    let mut framed = vec![line(top, &title)];
    for mut inner in lines {
        inner.pad_to(inside - 2);
        framed.push(Line { text: format!("{down} {} {down}", inner.text), chars: inside + 2 });
    }
    framed.push(line(bottom, ""));
    framed
}

/// How a core is written: all are of one size.
struct Cell<'g> {
    glyphs: &'g Glyphs,
    cpu_digits: usize,
    /// Of the text of a thread.
    chars: usize,
    cores_per_row: usize,
}

impl<'g> Cell<'g> {
    fn of(machine: &Machine, glyphs: &'g Glyphs) -> Self {
        let cpu_digits = machine.threads().map(|thread| thread.cpu.to_string().len()).max().unwrap_or(1);
        let marks = machine.threads().map(|thread| mark(thread, glyphs).chars().count()).max().unwrap_or(1);
        let chars = cpu_digits + 1 + marks;
        // A frame with its space is four wide: of a cache, of a socket, and of a node where a socket has several.
        let frames = if machine.sockets.iter().any(|socket| socket.nodes.len() > 1) { 3 } else { 2 };
        let fits = (WIDTH_MAX - 4 * frames - 1) / (chars + 3);
        let cores_per_row = CORES_PER_ROW.into_iter().find(|count| *count <= fits).unwrap_or(1);
        Self { glyphs, cpu_digits, chars, cores_per_row }
    }

    fn grid(&self, cores: &[Core]) -> Vec<Line> {
        let Glyphs { top, middle, bottom, across, down, .. } = self.glyphs;
        let columns = self.cores_per_row.min(cores.len().max(1));
        let line = |ends: &[char; 3]| {
            let cell: String = std::iter::repeat_n(*across, self.chars + 2).collect();
            let cells = vec![cell; columns].join(&ends[1].to_string());
            Line::plain(format!("{}{cells}{}", ends[0], ends[2]))
        };
        let mut lines = vec![line(top)];
        for (number, row) in cores.chunks(columns).enumerate() {
            if number > 0 {
                lines.push(line(middle));
            }
            let threads = row.iter().map(|core| core.threads.len()).max().unwrap_or(0);
            for place in 0..threads {
                let mut line = Line::plain(down.to_string());
                for column in 0..columns {
                    let start = line.chars;
                    line.push(Style::new(), " ");
                    if let Some(thread) = row.get(column).and_then(|core| core.threads.get(place)) {
                        line.push(DIM, &format!("{:>1$} ", thread.cpu, self.cpu_digits));
                        line.push(style(thread.runs), &mark(thread, self.glyphs));
                    }
                    line.pad_to(start + self.chars + 2);
                    line.push(Style::new(), &down.to_string());
                }
                lines.push(line);
            }
        }
        lines.push(line(bottom));
        lines
    }
}

fn mark(thread: &Thread, glyphs: &Glyphs) -> String {
    let runs = match thread.runs {
        Runs::Shard(index) => format!("s{index}"),
        Runs::CryptoWorker(index) => format!("w{index}"),
        Runs::Housekeeping => glyphs.free.to_string(),
        Runs::Closed => "x".to_owned(),
    };
    if thread.interrupts > 0 { format!("{runs} q{}", thread.interrupts) } else { runs }
}

fn style(runs: Runs) -> Style {
    match runs {
        Runs::Shard(_) => GOOD,
        Runs::CryptoWorker(_) => CAUTION,
        Runs::Housekeeping | Runs::Closed => DIM,
    }
}

/// The marks that occur, each with what it means.
fn legend(machine: &Machine, glyphs: &Glyphs) -> Vec<(String, &'static str)> {
    let has = |is: fn(&Thread) -> bool| machine.threads().any(is);
    let all = [
        (has(|thread| matches!(thread.runs, Runs::Shard(_))), "sN".to_owned(), "runs shard N"),
        (has(|thread| matches!(thread.runs, Runs::CryptoWorker(_))), "wN".to_owned(), "runs crypto worker N"),
        (
            has(|thread| thread.runs == Runs::Housekeeping),
            glyphs.free.to_string(),
            "free: for the control thread, the kernel and others",
        ),
        (has(|thread| thread.runs == Runs::Closed), "x".to_owned(), "closed to this process"),
        (has(|thread| thread.interrupts > 0), "qN".to_owned(), "interrupts of N network queues come here"),
    ];
    all.into_iter().filter(|(is_there, ..)| *is_there).map(|(_, mark, meaning)| (mark, meaning)).collect()
}
