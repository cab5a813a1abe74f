//! A chart of lines as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 26.0;
/// Lines of an axis, about.
const TICKS: f64 = 5.0;
/// Points of one line; more are not told apart.
const POINTS_MAX: usize = 1_200;

/// One line.
pub(super) struct Line {
    pub(super) class: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// What an axis shows.
pub(super) struct Scale {
    from: f64,
    to: f64,
    is_log: bool,
    ticks: Vec<(f64, String)>,
}

impl Scale {
    /// Even steps, each at a round figure.
    pub(super) fn linear(from: f64, to: f64, text: impl Fn(f64) -> String) -> Self {
        let to = if to > from { to } else { from + 1.0 };
        let rough = (to - from) / TICKS;
        let unit = 10f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().map(|round| round * unit).find(|step| *step >= rough).unwrap_or(rough);
        let mut ticks = Vec::new();
        let mut place = 0u32;
        while from + f64::from(place) * step <= to && place < 20 {
            // A step is round, its multiples are not in binary.
            let at = from + f64::from(place) * step;
            let digits = if step < 1.0 { 10f64.powf((-step.log10()).ceil() + 1.0) } else { 1.0 };
            ticks.push((at, text((at * digits).round() / digits)));
            place += 1;
        }
        Self { from, to, is_log: false, ticks }
    }

    /// 0, 1, 2 ... each with its text.
    pub(super) fn steps(to: f64, text: impl Fn(f64) -> String) -> Self {
        let mut ticks = Vec::new();
        let mut at = 0.0;
        while at <= to {
            ticks.push((at, text(at)));
            at += 1.0;
        }
        Self { from: 0.0, to: to.max(1.0), is_log: false, ticks }
    }

    /// Microseconds, by powers of ten around what these lines have.
    pub(super) fn log_around(lines: &[Line]) -> Self {
        let values = || lines.iter().flat_map(|line| &line.points).map(|(_, y)| y.max(1.0));
        let (least, most) = values().fold((f64::MAX, 1.0f64), |(least, most), y| (least.min(y), most.max(y)));
        let least = if least == f64::MAX { 1.0 } else { least };
        let (from, to) = (least.log10().floor(), (most.log10() + 0.02).ceil());
        let to = if to > from { to } else { from + 1.0 };
        let mut ticks = Vec::new();
        let mut at = from;
        while at <= to {
            ticks.push((10f64.powf(at), micros(at)));
            at += 1.0;
        }
        Self { from: 10f64.powf(from), to: 10f64.powf(to), is_log: true, ticks }
    }

    /// Where a value is, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let at = match self.is_log {
            false => (value - self.from) / (self.to - self.from),
            true => (value.max(f64::MIN_POSITIVE).log10() - self.from.log10()) / (self.to.log10() - self.from.log10()),
        };
        at.clamp(0.0, 1.0)
    }
}

/// A power of ten of microseconds.
fn micros(power: f64) -> String {
    let us = 10f64.powf(power);
    match power {
        ..3.0 => format!("{us:.0} us"),
        ..6.0 => format!("{:.0} ms", us / 1e3),
        _ => format!("{:.0} s", us / 1e6),
    }
}

/// Lines over two axes.
pub(super) struct Chart {
    /// For those who do not see it.
    pub(super) label: &'static str,
    pub(super) x: Scale,
    pub(super) y: Scale,
    /// A part of the x axis that is set apart.
    pub(super) shade: Option<(f64, f64)>,
    pub(super) lines: Vec<Line>,
}

impl Chart {
    pub(super) fn draw(&self, page: &mut String) {
        let x = |value: f64| LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM);
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        // Writing into a string does not fail, here and below.
        let _ = write!(page, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", self.label);
        if let Some((from, to)) = self.shade {
            let (from, to) = (x(from), x(to));
            let _ = write!(
                page,
                "<rect class=\"shade\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                to - from,
                bottom - TOP
            );
        }
        for (value, text) in &self.y.ticks {
            let at = y(*value);
            let _ = write!(
                page,
                "<line class=\"rule\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{text}</text>",
                LEFT - 8.0,
                at + 4.0
            );
        }
        for (value, text) in &self.x.ticks {
            let at = x(*value);
            // The last one would stand out of the picture.
            let anchor = if at > right - 24.0 { "end" } else { "middle" };
            let (end, below) = (bottom + 4.0, HEIGHT - 6.0);
            let _ = write!(
                page,
                "<line class=\"rule\" x1=\"{at:.1}\" y1=\"{bottom}\" x2=\"{at:.1}\" y2=\"{end:.1}\"/><text x=\"{at:.1}\" \
                 y=\"{below:.1}\" text-anchor=\"{anchor}\">{text}</text>"
            );
        }
        let mut is_empty = true;
        for line in &self.lines {
            let each = line.points.len().div_ceil(POINTS_MAX).max(1);
            let points: Vec<(f64, f64)> =
                line.points.iter().step_by(each).map(|(at, value)| (x(*at), y(*value))).collect();
            is_empty &= points.is_empty();
            if let [(at, value)] = points[..] {
                // A line of one point is a dot: of no length, with round ends.
                let _ = write!(page, "<path class=\"{}\" d=\"M{at:.1} {value:.1}h0.01\"/>", line.class);
            } else if !points.is_empty() {
                let text: Vec<String> = points.iter().map(|(at, value)| format!("{at:.1},{value:.1}")).collect();
                let _ = write!(page, "<polyline class=\"{}\" points=\"{}\"/>", line.class, text.join(" "));
            }
        }
        if is_empty {
            let (middle, half) = (f64::midpoint(LEFT, right), f64::midpoint(TOP, bottom));
            let _ = write!(
                page,
                "<text x=\"{middle:.1}\" y=\"{half:.1}\" text-anchor=\"middle\">nothing was measured</text>"
            );
        }
        page.push_str("</svg>");
    }
}
