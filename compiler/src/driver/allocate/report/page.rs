//! The frontier as a page: inline SVG plots, the bits of every layer, which budget binds. No script, no other file.
use super::{FrontierReport, PointReport};
use std::fmt::Write as _;

const STYLE: &str = "body{font:14px sans-serif;margin:2em;max-width:1200px;color:#222}\
svg{background:#fafafa;border:1px solid #ddd;margin:0 1em 1em 0}\
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ddd;padding:2px 6px;text-align:right}\
td:first-child,th:first-child{text-align:left}text{font:11px sans-serif;fill:#444}";

/// Width, height and margin of a plot.
const PLOT: (f64, f64, f64) = (540.0, 360.0, 56.0);

/// The page.
pub fn html(report: &FrontierReport) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Bit allocation</title>\
         <style>{STYLE}</style></head><body>\n<h1>Bit allocation</h1>\n<p>Sensitivity: {}. Solver: {}. {}Model {}…</p>\n",
        escape(&report.metric),
        escape(&report.solver),
        if report.isa.is_empty() {
            "Latencies are assumed, not measured. ".to_owned()
        } else {
            format!("Latencies are for {}. ", escape(&report.isa))
        },
        escape(report.model_sha256.get(..12).unwrap_or(&report.model_sha256))
    );
    if let Some(chosen) = &report.chosen {
        let _ = writeln!(
            out,
            "<p>The cheapest point within the accuracy target is <b>{}</b>.</p>",
            escape(chosen)
        );
    }
    let metric =
        |name: &'static str, factor: f64| move |p: &PointReport| p.totals.get(name).map(|q| q.value * factor);
    let top1 = |p: &PointReport| p.measured.as_ref().and_then(|m| m.top1_percent);
    let clock = |p: &PointReport| p.measured.as_ref().and_then(|m| m.latency_us);
    let (size, latency) = (metric("size", 1e-3), metric("latency", 1e6));
    let sensitivity = metric("sensitivity", 1.0);
    let plots: [(&str, &str, Value<'_>, Value<'_>, bool); 5] = [
        ("size, kB", "sensitivity", &size, &sensitivity, true),
        ("predicted latency, µs", "sensitivity", &latency, &sensitivity, true),
        ("size, kB", "measured top-1, %", &size, &top1, false),
        ("measured latency, µs", "measured top-1, %", &clock, &top1, false),
        ("predicted latency, µs", "measured latency, µs", &latency, &clock, false),
    ];
    for (x_name, y_name, x, y, log) in plots {
        plot(&mut out, &report.points, (x_name, x), (y_name, y), log);
    }
    legend(&mut out);
    bits(&mut out, &report.points);
    table(&mut out, &report.points);
    out.push_str("</body></html>\n");
    out
}

/// What a plot shows of a point.
type Value<'a> = &'a dyn Fn(&PointReport) -> Option<f64>;

fn color(kind: &str) -> &'static str {
    match kind {
        "frontier" => "#1f6fb4",
        "uniform" => "#d62728",
        "first-k" => "#ff9d1c",
        _ => "#999999",
    }
}

fn legend(out: &mut String) {
    out.push_str("<p>");
    for kind in ["frontier", "uniform", "first-k", "random"] {
        let _ = write!(out, "<span style=\"color:{}\">&#9679; {kind}</span> &nbsp; ", color(kind));
    }
    out.push_str("</p>\n");
}

fn plot(out: &mut String, points: &[PointReport], x: (&str, Value<'_>), y: (&str, Value<'_>), log: bool) {
    let usable = |v: f64| v.is_finite() && (!log || v > 0.0);
    let shown: Vec<(&PointReport, f64, f64)> = points
        .iter()
        .filter_map(|p| Some((p, (x.1)(p)?, (y.1)(p)?)))
        .filter(|(_, x, y)| x.is_finite() && usable(*y))
        .map(|(p, x, y)| (p, x, if log { y.log10() } else { y }))
        .collect();
    if shown.len() < 2 {
        return;
    }
    let range = |values: &dyn Fn(&(&PointReport, f64, f64)) -> f64| {
        let (low, high) = shown
            .iter()
            .map(values)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        let pad = ((high - low) * 0.06).max(1e-12);
        (low - pad, high + pad)
    };
    let ((x0, x1), (y0, y1)) = (range(&|p| p.1), range(&|p| p.2));
    let (width, height, margin) = PLOT;
    let px = |v: f64| margin + (v - x0) / (x1 - x0) * (width - 1.5 * margin);
    let py = |v: f64| height - margin - (v - y0) / (y1 - y0) * (height - 1.5 * margin);
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" role=\"img\">\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
         <text x=\"14\" y=\"{}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {})\">{}</text>",
        width / 2.0,
        height - 8.0,
        escape(x.0),
        height / 2.0,
        height / 2.0,
        escape(y.0)
    );
    for i in 0..=4 {
        let share = f64::from(i) / 4.0;
        let (vx, vy) = (x0 + share * (x1 - x0), y0 + share * (y1 - y0));
        let label = if log { 10f64.powf(vy) } else { vy };
        let _ = write!(
            out,
            "<line x1=\"{0:.1}\" y1=\"{1:.1}\" x2=\"{0:.1}\" y2=\"{2:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{0:.1}\" y=\"{3:.1}\" text-anchor=\"middle\">{4}</text>\
             <line x1=\"{5:.1}\" y1=\"{6:.1}\" x2=\"{7:.1}\" y2=\"{6:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{8:.1}\" y=\"{9:.1}\" text-anchor=\"end\">{10}</text>",
            px(vx),
            py(y0),
            py(y1),
            height - margin + 16.0,
            short(vx),
            px(x0),
            py(vy),
            px(x1),
            margin - 4.0,
            py(vy) + 4.0,
            short(label)
        );
    }
    let mut line: Vec<(f64, f64)> = shown
        .iter()
        .filter(|(p, ..)| p.kind == "frontier" && !p.dominated)
        .map(|(_, x, y)| (*x, *y))
        .collect();
    line.sort_by(|a, b| a.0.total_cmp(&b.0));
    let path: Vec<String> = line.iter().map(|(x, y)| format!("{:.1},{:.1}", px(*x), py(*y))).collect();
    let _ = write!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-opacity=\"0.5\"/>",
        path.join(" "),
        color("frontier")
    );
    for (p, x, y) in &shown {
        let _ = write!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{}\" fill-opacity=\"{}\"><title>{}</title></circle>",
            px(*x),
            py(*y),
            color(&p.kind),
            if p.dominated { 0.35 } else { 0.9 },
            escape(&p.name)
        );
    }
    out.push_str("</svg>\n");
}

/// One row for each point, one column for each layer, shaded by weight bits; activation bits below 8 are marked.
fn bits(out: &mut String, points: &[PointReport]) {
    let chosen: Vec<&PointReport> = points.iter().filter(|p| p.kind == "frontier").collect();
    let Some(layers) = chosen.first().map(|p| p.bits.len()).filter(|n| *n > 0) else { return };
    let (cell, left) = (14.0, 70.0);
    let (width, height) = (left + cell * layers as f64 + 10.0, cell * chosen.len() as f64 + 10.0);
    let _ = write!(
        out,
        "<h2>Bits of each layer</h2>\n<p>One row for each point, one column for each layer in execution order. Dark: 8-bit \
         weights; light: fewer; a dot: activations below 8 bits.</p>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" role=\"img\">"
    );
    for (row, p) in chosen.iter().enumerate() {
        let y = 4.0 + cell * row as f64;
        let _ = write!(out, "<text x=\"4\" y=\"{:.1}\">{}</text>", y + 11.0, escape(&p.name));
        for (column, (name, w, a)) in p.bits.iter().enumerate() {
            let x = left + cell * column as f64;
            let shade = [
                "#deebf7", "#deebf7", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5",
                "#08519c",
            ];
            let fill = shade[usize::from(*w).min(8)];
            let _ = write!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"13\" height=\"13\" fill=\"{fill}\"><title>{} w{w}a{a}</title></rect>",
                escape(name)
            );
            if *a < 8 {
                let _ = write!(
                    out,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\" fill=\"#fff\" stroke=\"#333\"/>",
                    x + 6.5,
                    y + 6.5
                );
            }
        }
    }
    out.push_str("</svg>\n");
}

fn table(out: &mut String, points: &[PointReport]) {
    out.push_str(
        "<h2>Points</h2>\n<table><tr><th>point</th><th>sensitivity</th><th>± </th><th>size, kB</th><th>M bit operations</th>\
         <th>energy, µJ</th><th>predicted, µs</th><th>measured, µs</th><th>top-1, %</th><th>budgets</th></tr>\n",
    );
    for p in points {
        let value =
            |name: &str, factor: f64| p.totals.get(name).map_or(String::new(), |q| short(q.value * factor));
        let m = p.measured.clone().unwrap_or_default();
        let budgets: Vec<String> = p.budgets.iter().map(|b| format!("{}: {}", b.metric, b.buys)).collect();
        let _ = writeln!(
            out,
            "<tr><td>{}{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&p.name),
            if p.dominated { " (dominated)" } else { "" },
            value("sensitivity", 1.0),
            short(p.sensitivity_error),
            value("size", 1e-3),
            value("bops", 1e-6),
            value("energy", 1e6),
            value("latency", 1e6),
            m.latency_us.map_or(String::new(), short),
            m.top1_percent.map_or(String::new(), |t| format!("{t:.2}")),
            escape(&budgets.join("; "))
        );
    }
    out.push_str("</table>\n");
}

/// Four significant digits.
fn short(v: f64) -> String {
    match v.abs() {
        0.0 => "0".into(),
        a if !(1e-3..1e6).contains(&a) => format!("{v:.3e}"),
        a => format!("{v:.*}", (3 - a.log10().floor() as i32).clamp(0, 6) as usize),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
