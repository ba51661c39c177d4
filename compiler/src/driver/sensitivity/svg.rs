//! Small charts as SVG text: bars with error bars, points, lines. No scripts, no fonts, nothing from the network.
use std::fmt::Write as _;

/// Colours that stay apart for most colour-blind readers (Okabe and Ito, "Color universal design", 2008).
pub const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999"];

/// Text that is safe between tags and in attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A number in a few characters.
pub fn number(x: f64) -> String {
    let trimmed = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    match x.abs() {
        0.0 => "0".into(),
        0.001..10_000.0 => {
            let digits = (2 - x.abs().log10().floor() as i32).clamp(0, 5) as usize;
            trimmed(format!("{x:.digits$}"))
        }
        _ => {
            let text = format!("{x:.2e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{}e{exponent}", trimmed(mantissa.to_owned()))
        }
    }
}

/// An axis: values to pixels, with ticks.
#[derive(Clone, Debug)]
pub struct Axis {
    lo: f64,
    hi: f64,
    log: bool,
    pixels: (f64, f64),
}

impl Axis {
    /// Covers the finite values (for `log` the positive ones) with some room; pixels from the first to the second.
    pub fn new(values: impl Iterator<Item = f64>, log: bool, pixels: (f64, f64)) -> Self {
        let (mut lo, mut hi) = (f64::INFINITY, f64::NEG_INFINITY);
        for v in values.filter(|v| v.is_finite() && (!log || *v > 0.0)) {
            (lo, hi) = (lo.min(v), hi.max(v));
        }
        if lo > hi {
            (lo, hi) = if log { (0.1, 1.0) } else { (0.0, 1.0) };
        }
        if log {
            let (a, b) = (lo.log10().floor(), hi.log10().ceil());
            let b = if a == b { b + 1.0 } else { b };
            return Self { lo: 10f64.powf(a), hi: 10f64.powf(b), log, pixels };
        }
        let room = if hi > lo { 0.04 * (hi - lo) } else { hi.abs().max(1.0) * 0.1 };
        Self { lo: lo - room, hi: hi + room, log, pixels }
    }

    /// Where a value lies; values outside land on the edge.
    pub fn at(&self, value: f64) -> f64 {
        let (a, b, v) = match self.log {
            true => (self.lo.log10(), self.hi.log10(), value.max(self.lo).log10()),
            false => (self.lo, self.hi, value),
        };
        let share = ((v - a) / (b - a)).clamp(0.0, 1.0);
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }

    /// Round numbers inside.
    pub fn ticks(&self) -> Vec<f64> {
        if self.log {
            let (a, b) = (self.lo.log10().round() as i32, self.hi.log10().round() as i32);
            let step = ((b - a) / 8).max(1) as usize;
            return (a..=b).step_by(step).map(|e| 10f64.powi(e)).collect();
        }
        let rough = (self.hi - self.lo) / 6.0;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|f| f * unit).find(|s| *s >= rough).unwrap_or(rough);
        let first = (self.lo / step).ceil() as i64;
        (0..20).map(|i| (first + i) as f64 * step).take_while(|t| *t <= self.hi).collect()
    }
}

/// A chart under construction.
pub struct Chart {
    body: String,
    width: f64,
    height: f64,
    title: String,
}

/// Room for labels.
const LEFT: f64 = 72.0;
const TOP: f64 = 12.0;

impl Chart {
    /// An empty chart; the title is for screen readers.
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        Self { body: String::new(), width, height, title: title.to_owned() }
    }

    /// Horizontal pixels for an axis.
    pub fn across(&self) -> (f64, f64) {
        (LEFT, self.width - 12.0)
    }

    /// Vertical pixels for an axis, with `below` pixels of labels under it.
    pub fn up(&self, below: f64) -> (f64, f64) {
        (self.height - below, TOP)
    }

    /// Grid lines and labels of a vertical axis.
    pub fn y_axis(&mut self, axis: &Axis, label: &str) {
        let (left, right) = self.across();
        for tick in axis.ticks() {
            let y = axis.at(tick);
            self.line((left, y), (right, y), "#ddd", 1.0);
            self.text((left - 6.0, y + 4.0), "end", &number(tick), 0.0);
        }
        let middle = (axis.pixels.0 + axis.pixels.1) / 2.0;
        self.text((14.0, middle), "middle", label, -90.0);
    }

    /// Grid lines and labels of a horizontal axis at height `y`.
    pub fn x_axis(&mut self, axis: &Axis, y: f64, label: &str) {
        for tick in axis.ticks() {
            let x = axis.at(tick);
            self.line((x, y), (x, TOP), "#ddd", 1.0);
            self.text((x, y + 15.0), "middle", &number(tick), 0.0);
        }
        self.text(((axis.pixels.0 + axis.pixels.1) / 2.0, y + 32.0), "middle", label, 0.0);
    }

    /// A line.
    pub fn line(&mut self, a: (f64, f64), b: (f64, f64), colour: &str, width: f64) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
            a.0, a.1, b.0, b.1
        );
    }

    /// A polyline.
    pub fn path(&mut self, points: &[(f64, f64)], colour: &str) {
        let list: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            list.join(" ")
        );
    }

    /// A bar with a tooltip.
    pub fn bar(&mut self, x: f64, width: f64, (from, to): (f64, f64), colour: &str, tip: &str) {
        let (y, height) = (from.min(to), (from - to).abs());
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"><title>{}</title></rect>",
            escape(tip)
        );
    }

    /// An error bar around a bar's end.
    pub fn whisker(&mut self, x: f64, (from, to): (f64, f64), colour: &str) {
        self.line((x, from), (x, to), colour, 1.0);
        for y in [from, to] {
            self.line((x - 3.0, y), (x + 3.0, y), colour, 1.0);
        }
    }

    /// A point with a tooltip.
    pub fn point(&mut self, (x, y): (f64, f64), colour: &str, tip: &str) {
        let _ = writeln!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\" fill-opacity=\"0.8\"><title>{}</title></circle>",
            escape(tip)
        );
    }

    /// Text, turned by `angle` degrees about its place.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: &str, text: &str, angle: f64) {
        let turn = if angle == 0.0 {
            String::new()
        } else {
            format!(" transform=\"rotate({angle} {x:.1} {y:.1})\"")
        };
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{turn}>{}</text>",
            escape(text)
        );
    }

    /// The `<svg>` element.
    pub fn finish(self) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" role=\"img\">\n\
             <title>{}</title>\n{}</svg>\n",
            escape(&self.title),
            self.body,
            w = self.width,
            h = self.height
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_cover_their_values() {
        let log = Axis::new([0.02, 30.0, f64::NAN, 0.0].into_iter(), true, (100.0, 0.0));
        assert_eq!(log.ticks(), [0.01, 0.1, 1.0, 10.0, 100.0]);
        assert!((log.at(1.0) - 50.0).abs() < 1e-9 && log.at(-5.0) == 100.0);
        let linear = Axis::new([0.0, 10.0].into_iter(), false, (0.0, 100.0));
        assert_eq!(linear.ticks(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        let one = Axis::new([5.0].into_iter(), false, (0.0, 1.0));
        assert!(one.at(5.0) > 0.0 && one.at(5.0) < 1.0 && one.ticks().len() < 20);
        assert!(!Axis::new(std::iter::empty(), true, (0.0, 1.0)).ticks().is_empty());
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let mut c = Chart::new(10.0, 10.0, "<b>");
        c.point((1.0, 1.0), COLOURS[0], "a\"<script>");
        let text = c.finish();
        assert!(!text.contains("<script>") && !text.contains("<b>") && text.contains("&lt;script&gt;"));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 1.0, 0.0123456, 12345.6, 1e-9].map(number), ["0", "1", "0.0123", "1.23e4", "1e-9"]);
    }
}
