//! What shards did over time as heat maps: a row for each shard, a column for each second or for some of them.

use std::fmt::Write as _;

use super::{card_begins, duration, escaped, rate};
use crate::report::Report;
use crate::shards::ShardSecond;

const WIDTH: f64 = 1_020.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 92.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 24.0;
/// What all rows together are about as high as.
const ROWS_HEIGHT: f64 = 240.0;
const ROW_HEIGHT_MIN: f64 = 8.0;
const ROW_HEIGHT_MAX: f64 = 30.0;
/// Rows that are lower have no room for the text of every one.
const TEXT_HEIGHT: f64 = 13.0;
/// Columns that are told apart.
const COLUMNS_MAX: usize = 180;
/// Cells of one map: each is an element of the page.
const CELLS_MAX: usize = 6_144;
/// Between two repetitions.
const GAP: f64 = 10.0;
/// Steps of colour, `h0` to `h8` in the page's style.
const STEPS: usize = 9;
/// Texts along the time axis, about.
const TICKS: usize = 10;

/// Something that is shown of every shard and second.
struct Figure {
    heading: &'static str,
    unit: &'static str,
    /// What stands at the end of each row: of all measured seconds.
    whole: Whole,
    scale: Spacing,
    of: fn(&ShardSecond) -> Vec<Option<f64>>,
    text: fn(f64) -> String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Mean,
    Highest,
}

impl Whole {
    fn of(self, values: &[f64]) -> Option<f64> {
        if values.is_empty() {
            return None;
        }
        #[allow(clippy::cast_precision_loss, reason = "a run has at most SERIES_ROWS_MAX seconds")]
        Some(match self {
            Self::Mean => values.iter().sum::<f64>() / values.len() as f64,
            Self::Highest => values.iter().copied().fold(f64::MIN, f64::max),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spacing {
    /// Even steps from zero.
    Linear,
    /// Each step so many times the one before.
    Log,
}

#[allow(clippy::cast_precision_loss, reason = "latencies are at most LATENCY_US_MAX")]
const FIGURES: [Figure; 3] = [
    Figure {
        heading: "Accepted messages",
        unit: "messages/s",
        whole: Whole::Mean,
        scale: Spacing::Linear,
        of: |second| second.accepted_per_s.clone(),
        text: rate,
    },
    Figure {
        heading: "CPU time",
        unit: "of one CPU",
        whole: Whole::Mean,
        scale: Spacing::Linear,
        of: |second| second.cpu_percent.clone(),
        text: percent,
    },
    Figure {
        heading: "p99 of group commits",
        unit: "or less",
        whole: Whole::Highest,
        scale: Spacing::Log,
        of: |second| second.commit_p99_us.iter().map(|us| us.map(|us| us as f64)).collect(),
        text: micros,
    },
];

fn percent(percent: f64) -> String {
    if percent < 10.0 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "latencies are not negative, `as` saturates"
)]
fn micros(us: f64) -> String {
    duration(us.round() as u64)
}

/// The section of the page: the maps, of which a heading chooses one, or why there is none.
pub(super) fn draw(page: &mut String, report: &Report) {
    let shards = &report.shards;
    card_begins(page, "wide heat", "Shards over time", "as the node tells of itself; one row for each shard");
    if shards.seconds.is_empty() {
        let why =
            shards.unavailable_because.as_deref().unwrap_or("no second was looked at from its beginning to its end");
        let _ = writeln!(page, "<p>Not to be had: {}.</p></section>", escaped(why));
        return;
    }
    for (place, Figure { heading, .. }) in FIGURES.iter().enumerate() {
        let checked = if place == 0 { " checked" } else { "" };
        let _ = write!(
            page,
            "<input type=\"radio\" name=\"heat\" id=\"heat{place}\"{checked}/><label for=\"heat{place}\">{heading}</label>"
        );
    }
    let columns = Columns::of(&shards.seconds, shards.shards.len());
    let warmup_s = report.setup.options.warmup_s;
    for (place, figure) in FIGURES.iter().enumerate() {
        let _ = write!(page, "<div class=\"map m{place}\"><h3>{}</h3>", figure.heading);
        Map { figure, shards: &shards.shards, seconds: &shards.seconds, columns: &columns, warmup_s }.draw(page);
        page.push_str("</div>");
    }
    page.push_str("</section>\n");
}

/// Which seconds stand in one column.
struct Columns {
    each: u64,
    /// Repetitions, each with its last second.
    runs: Vec<(u32, u64)>,
}

impl Columns {
    fn of(seconds: &[ShardSecond], shard_count: usize) -> Self {
        let mut runs: Vec<(u32, u64)> = Vec::new();
        for second in seconds {
            match runs.last_mut() {
                Some((run, last)) if *run == second.run => *last = second.second,
                _ => runs.push((second.run, second.second)),
            }
        }
        let most = COLUMNS_MAX.min(CELLS_MAX / shard_count.max(1)).max(1) as u64;
        let all: u64 = runs.iter().map(|(_, last)| last + 1).sum();
        Self { each: all.div_ceil(most), runs }
    }

    fn count(&self) -> u64 {
        self.runs.iter().map(|(_, last)| self.of_run(*last)).sum()
    }

    fn of_run(&self, last: u64) -> u64 {
        (last + 1).div_ceil(self.each)
    }
}

/// What value has which colour.
struct Colours {
    from: f64,
    to: f64,
    spacing: Spacing,
}

impl Colours {
    fn of(spacing: Spacing, values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = values.fold((f64::MAX, 0.0f64), |(least, most), value| (least.min(value), most.max(value)));
        match spacing {
            Spacing::Linear => Self { from: 0.0, to: round_above(most), spacing },
            Spacing::Log => {
                let (from, to) = (least.min(most).max(1.0), most.max(1.0));
                // Of one value no scale can be made: it stands at the lower end.
                Self { from, to: if to > from { to } else { from * 2.0 }, spacing }
            }
        }
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a step of few, not negative, and `as` saturates"
    )]
    fn step(&self, value: f64) -> usize {
        let at = match self.spacing {
            Spacing::Linear => (value - self.from) / (self.to - self.from),
            Spacing::Log => (value.max(1.0) / self.from).ln() / (self.to / self.from).ln(),
        };
        ((at * STEPS as f64) as usize).min(STEPS - 1)
    }

    /// Where the scale is by this share.
    fn at(&self, share: f64) -> f64 {
        match self.spacing {
            Spacing::Linear => self.from + share * (self.to - self.from),
            Spacing::Log => self.from * (self.to / self.from).powf(share),
        }
    }
}

/// The next figure above that is round.
fn round_above(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let unit = 10f64.powf(value.log10().floor());
    let rounds = [1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    rounds.into_iter().map(|round| round * unit).find(|round| *round >= value * (1.0 - 1e-9)).unwrap_or(value)
}

struct Map<'a> {
    figure: &'a Figure,
    shards: &'a [u16],
    seconds: &'a [ShardSecond],
    columns: &'a Columns,
    warmup_s: f64,
}

#[allow(clippy::cast_precision_loss, reason = "shards, columns and seconds are far fewer than 2^52")]
impl Map<'_> {
    fn draw(&self, page: &mut String) {
        let rows = self.shards.len();
        let row_height = (ROWS_HEIGHT / rows as f64).clamp(ROW_HEIGHT_MIN, ROW_HEIGHT_MAX);
        let bottom = TOP + row_height * rows as f64;
        let gaps = GAP * (self.columns.runs.len() - 1) as f64;
        let cell_width = (WIDTH - LEFT - RIGHT - gaps) / self.columns.count() as f64;
        let values: Vec<Vec<Option<f64>>> = self.seconds.iter().map(self.figure.of).collect();
        let colours = Colours::of(self.figure.scale, values.iter().flatten().flatten().copied());
        let Figure { heading, unit, .. } = self.figure;
        // Writing into a string does not fail, here and below.
        let _ = write!(
            page,
            "<div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {:.1}\" role=\"img\" aria-label=\"{heading} of each shard over time\">",
            bottom + BOTTOM
        );
        self.rows(page, row_height, bottom, &values);
        let mut left = LEFT;
        for (run, last) in &self.columns.runs {
            let count = self.columns.of_run(*last);
            self.cells(page, *run, (left, cell_width, row_height), &values, &colours);
            self.axis(page, *run, count, (left, cell_width), bottom);
            left += count as f64 * cell_width + GAP;
        }
        page.push_str("</svg></div>");
        self.legend(page, &colours, unit);
    }

    /// The names of shards, and what is so of all their seconds.
    fn rows(&self, page: &mut String, row_height: f64, bottom: f64, values: &[Vec<Option<f64>>]) {
        let every = (TEXT_HEIGHT / row_height).ceil().max(1.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of TEXT_HEIGHT and ROW_HEIGHT_MIN")]
        let every = every as usize;
        let whole = match self.figure.whole {
            Whole::Mean => "mean",
            Whole::Highest => "highest",
        };
        let right = WIDTH - RIGHT + 8.0;
        let _ = write!(page, "<text x=\"{right:.1}\" y=\"{:.1}\">{whole}</text>", TOP - 8.0);
        for (place, shard) in self.shards.iter().enumerate().step_by(every) {
            let middle = TOP + (place as f64 + 0.5) * row_height + 4.0;
            let measured = self.seconds.iter().zip(values).filter(|(second, _)| second.second as f64 >= self.warmup_s);
            let of_shard: Vec<f64> = measured.filter_map(|(_, values)| values[place]).collect();
            let text = self.figure.whole.of(&of_shard).map_or_else(|| "-".to_owned(), self.figure.text);
            let _ = write!(
                page,
                "<text x=\"{:.1}\" y=\"{middle:.1}\" text-anchor=\"end\">shard {shard}</text><text x=\"{right:.1}\" \
                 y=\"{middle:.1}\">{text}</text>",
                LEFT - 8.0
            );
        }
        debug_assert!(bottom > TOP, "there is a shard where there is a second");
    }

    fn cells(&self, page: &mut String, run: u32, at: (f64, f64, f64), values: &[Vec<Option<f64>>], colours: &Colours) {
        let (left, width, height) = at;
        let of_run: Vec<(u64, &Vec<Option<f64>>)> = (self.seconds.iter().zip(values))
            .filter(|(second, _)| second.run == run)
            .map(|(second, values)| (second.second, values))
            .collect();
        let several = self.columns.runs.len() > 1;
        for column in of_run.chunk_by(|one, other| one.0 / self.columns.each == other.0 / self.columns.each) {
            let (first, last) = (column[0].0, column[column.len() - 1].0);
            let x = left + (first / self.columns.each) as f64 * width;
            for (place, shard) in self.shards.iter().enumerate() {
                let of_shard: Vec<f64> = column.iter().filter_map(|(_, values)| values[place]).collect();
                let Some(value) = self.figure.whole.of(&of_shard) else { continue };
                let when = if first == last { format!("second {first}") } else { format!("seconds {first} to {last}") };
                let run = if several { format!("run {run}, ") } else { String::new() };
                // A little wider than it is far to the next, so that nothing shines through between them.
                let _ = write!(
                    page,
                    "<rect class=\"h{}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>shard {shard}, {run}{when}: \
                     {} {}</title></rect>",
                    colours.step(value),
                    TOP + place as f64 * height,
                    (width - 0.6).max(width * 0.9),
                    height - 1.0,
                    (self.figure.text)(value),
                    self.figure.unit,
                );
            }
        }
    }

    /// Seconds below the cells, the run above them, and a line where what is measured begins.
    fn axis(&self, page: &mut String, run: u32, count: u64, at: (f64, f64), bottom: f64) {
        let (left, width) = at;
        let each = self.columns.each as f64;
        let x = |second: f64| left + second / each * width;
        let seconds = count as f64 * each;
        let ticks = (TICKS / self.columns.runs.len()).max(2) as f64;
        let step = round_above(seconds / ticks).max(1.0).ceil();
        let several = self.columns.runs.len() > 1;
        let mut second = 0.0;
        // The end of one run would stand on the beginning of the next.
        while second < seconds || (second <= seconds && !several) {
            let at = x(second);
            let _ = write!(
                page,
                "<line class=\"rule\" x1=\"{at:.1}\" y1=\"{bottom:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\"/><text x=\"{at:.1}\" y=\"{:.1}\" \
                 text-anchor=\"middle\">{second:.0} s</text>",
                bottom + 4.0,
                bottom + 17.0
            );
            second += step;
        }
        if several {
            let _ = write!(page, "<text x=\"{left:.1}\" y=\"{:.1}\">run {run}</text>", TOP - 8.0);
        }
        if self.warmup_s > 0.0 && self.warmup_s < seconds {
            let (at, above) = (x(self.warmup_s), TOP - 4.0);
            // The wide one below it is seen on dark cells.
            for class in ["halo", "begin"] {
                let _ = write!(
                    page,
                    "<line class=\"{class}\" x1=\"{at:.1}\" y1=\"{above:.1}\" x2=\"{at:.1}\" y2=\"{bottom:.1}\"/>"
                );
            }
        }
    }

    fn legend(&self, page: &mut String, colours: &Colours, unit: &str) {
        let text = |share: f64| (self.figure.text)(colours.at(share));
        let _ = write!(page, "<p class=\"key\"><span>{}</span><span class=\"steps\">", text(0.0));
        (0..STEPS).for_each(|step| {
            let _ = write!(page, "<b class=\"h{step}\"></b>");
        });
        let _ = write!(page, "</span><span>{} {unit}; {} in the middle</span>", text(1.0), text(0.5));
        let whole = match self.figure.whole {
            Whole::Mean => "the mean",
            Whole::Highest => "the highest",
        };
        if self.columns.each > 1 {
            let _ = write!(page, " <span>a column is {whole} of {} seconds</span>", self.columns.each);
        }
        if self.warmup_s > 0.0 {
            page.push_str(" <span>what is measured begins at the line</span>");
        }
        page.push_str(" <span>nothing was measured in an empty cell</span></p>");
    }
}
