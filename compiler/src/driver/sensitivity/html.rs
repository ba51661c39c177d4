//! The report as one HTML page: everything inline, so that it can be mailed and opened anywhere.
use super::svg::{Axis, COLOURS, Chart, escape, number};
use goshawk_passes::sensitivity::{
    Estimate, FLOAT, LayerProfile, Metric, Profile, agreement::agreements, krylov,
};
use std::{collections::BTreeSet, fmt::Write as _};

const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1180px;padding:0 1em;color:#222}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}td:first-child,th:first-child{text-align:left}\
svg text{font:11px system-ui,sans-serif;fill:#333}.note{color:#555}.scroll{overflow-x:auto}\
.keys{white-space:nowrap}.key{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 1em}";

/// The page.
pub fn page(profile: &Profile, title: &str) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sensitivity of {t}</title>\
         <style>{STYLE}</style></head>\n<body>\n<h1>Sensitivity of {t}</h1>\n",
        t = escape(title)
    );
    origin(&mut out, profile);
    traces(&mut out, profile);
    against_eigenvalue(&mut out, profile);
    omegas(&mut out, profile);
    measured(&mut out, profile);
    spectra(&mut out, profile);
    table(&mut out, profile);
    out.push_str("</body></html>\n");
    out
}

fn origin(out: &mut String, p: &Profile) {
    let o = &p.origin;
    let _ = writeln!(
        out,
        "<p>{} layers; {} samples, loss <b>{}</b>, seed {}. Model {}.</p>",
        p.layers.len(),
        o.samples,
        escape(&o.loss),
        o.seed,
        escape(p.model_sha256.get(..16).unwrap_or("unknown")),
    );
    let curved: Vec<&LayerProfile> = p.layers.iter().filter(|l| l.is_curved()).collect();
    let exactness = match curved.first() {
        None => "Gauss–Newton traces are exact Hessian traces here: behind every layer the network is piecewise linear, \
                 or the loss has no gradient."
            .to_owned(),
        Some(l) => format!(
            "For {} of {} layers the Gauss–Newton trace only approximates the Hessian trace (smooth activations: {}).",
            curved.len(),
            p.layers.len(),
            l.curved_by.as_deref().unwrap_or_default()
        ),
    };
    let _ = writeln!(out, "<p class=\"note\">{}</p>", escape(&exactness));
}

/// A bar for each layer, with error bars, on a logarithmic axis.
fn traces(out: &mut String, p: &Profile) {
    type Get<T> = fn(&LayerProfile) -> Option<T>;
    let sides: [(&str, Get<Estimate>, Get<f64>, usize); 3] = [
        ("Average trace of the weights", LayerProfile::weight_trace, |l| l.weights.data_error, 0),
        ("Average trace of the activations", LayerProfile::activation_trace, |l| l.activations.data_error, 2),
        ("Average empirical Fisher information of the weights", |l| l.weights.fisher, |_| None, 3),
    ];
    let names = Names::new(p);
    for (title, get, errors, colour) in sides {
        let values: Vec<(&LayerProfile, Estimate)> =
            p.layers.iter().filter_map(|l| Some((l, get(l)?))).collect();
        if values.is_empty() {
            continue;
        }
        let _ = writeln!(
            out,
            "<h2>{title}</h2><p class=\"note\">Black: standard error of the probes, none where the trace is exact. Grey: how much \
             another set of as many samples would change it.</p>"
        );
        let mut c = Chart::new(1140.0, 340.0, title);
        let (pixels, (left, right)) = (c.up(110.0), c.across());
        let axis = Axis::new(values.iter().map(|(_, e)| e.mean), true, pixels);
        c.y_axis(&axis, "tr / n");
        let step = (right - left) / values.len() as f64;
        for (i, (l, e)) in values.iter().enumerate() {
            let x = left + (i as f64 + 0.15) * step;
            let tip =
                format!("{}: {} ± {} ({} probes)", l.name, number(e.mean), number(e.std_error), e.samples);
            c.bar(x, 0.7 * step, (pixels.0, axis.at(e.mean)), COLOURS[colour], &tip);
            let middle = x + 0.35 * step;
            let around = |error: f64| (axis.at(e.mean - error), axis.at(e.mean + error));
            if let Some(error) = errors(l) {
                c.whisker(middle - 3.0, around(error * e.mean), "#888");
            }
            if e.std_error > 0.0 {
                c.whisker(middle + 3.0, around(e.std_error), "#000");
            }
            if values.len() <= 80 {
                c.text((middle + 4.0, pixels.0 + 8.0), "end", &names.short(&l.name), -60.0);
            }
        }
        let _ = writeln!(out, "<div class=\"scroll\">{}</div>", c.finish());
    }
}

/// Names for axes: without a last component that most layers share (`/Conv_output_0`), and of the rest the end.
struct Names(String);

impl Names {
    fn new(p: &Profile) -> Self {
        let last = |l: &LayerProfile| l.name.rfind('/').map_or_else(String::new, |i| l.name[i..].to_owned());
        let shared =
            p.layers.iter().map(last).max_by_key(|s| p.layers.iter().filter(|l| last(l) == *s).count());
        let most = |s: &String| 2 * p.layers.iter().filter(|l| last(l) == *s).count() > p.layers.len();
        Self(shared.filter(most).unwrap_or_default())
    }

    fn short(&self, name: &str) -> String {
        let name = name.strip_suffix(self.0.as_str()).filter(|n| !n.is_empty()).unwrap_or(name);
        let count = name.chars().count();
        if count <= 18 {
            name.to_owned()
        } else {
            format!("…{}", name.chars().skip(count - 17).collect::<String>())
        }
    }
}

fn against_eigenvalue(out: &mut String, p: &Profile) {
    let points: Vec<(&LayerProfile, f64, f64)> = p
        .layers
        .iter()
        .filter_map(|l| Some((l, l.weight_trace()?.mean, l.weights.eigenvalues.first()?.value)))
        .filter(|(_, t, e)| *t > 0.0 && *e > 0.0)
        .collect();
    if points.len() < 2 {
        return;
    }
    out.push_str("<h2>Trace against largest eigenvalue</h2>\n<p class=\"note\">HAWQ ranks by the eigenvalue, HAWQ-V2 by the average \
                  trace; layers that change places between them lie off the diagonal band.</p>\n");
    let mut c = Chart::new(620.0, 420.0, "trace against eigenvalue");
    let (across, up) = (c.across(), c.up(48.0));
    let x = Axis::new(points.iter().map(|p| p.2), true, across);
    let y = Axis::new(points.iter().map(|p| p.1), true, up);
    c.y_axis(&y, "average trace");
    c.x_axis(&x, up.0, "largest eigenvalue");
    for (l, trace, value) in points {
        let tip = format!("{}: λ {}, trace {}", l.name, number(value), number(trace));
        c.point((x.at(value), y.at(trace)), COLOURS[0], &tip);
    }
    out.push_str(&c.finish());
}

fn omegas(out: &mut String, p: &Profile) {
    let names = Names::new(p);
    type Widths = fn(&LayerProfile) -> BTreeSet<u8>;
    type Pair = fn(u8) -> (u8, u8);
    let sides: [(&str, Widths, Pair); 2] = [
        ("weights", |l| l.weights.errors.keys().copied().collect(), |b| (b, FLOAT)),
        ("activations", |l| l.activations.errors.keys().copied().collect(), |b| (FLOAT, b)),
    ];
    for (side, widths_of, bits) in sides {
        let widths: BTreeSet<u8> = p.layers.iter().flat_map(widths_of).collect();
        let omega = |l: &LayerProfile, b: u8| {
            l.omega(Metric::default(), bits(b).0, bits(b).1).ok().map(|e| e.mean).filter(|v| *v > 0.0)
        };
        let values =
            || p.layers.iter().flat_map(|l| widths.iter().filter_map(|b| omega(l, *b)).collect::<Vec<_>>());
        if values().next().is_none() {
            continue;
        }
        let _ = writeln!(
            out,
            "<h2>Omega of the {side} by width</h2><p class=\"note\">Metric {}: what quantizing this layer's {side} to so \
             many bits adds to twice the loss, by second-order approximation.{}</p>",
            Metric::default(),
            widths
                .iter()
                .enumerate()
                .map(|(i, b)| format!(
                    "<span class=\"keys\"><span class=\"key\" style=\"background:{}\"></span>{b} bits</span> ",
                    COLOURS[i % COLOURS.len()]
                ))
                .collect::<String>()
        );
        let mut c = Chart::new(1140.0, 360.0, "Omega by width");
        let (pixels, (left, right)) = (c.up(110.0), c.across());
        let axis = Axis::new(values(), true, pixels);
        c.y_axis(&axis, "Omega");
        let step = (right - left) / p.layers.len().max(1) as f64;
        let at = |i: usize| left + (i as f64 + 0.5) * step;
        for (k, b) in widths.iter().enumerate() {
            let colour = COLOURS[k % COLOURS.len()];
            let points: Vec<_> = p
                .layers
                .iter()
                .enumerate()
                .filter_map(|(i, l)| Some((i, l, omega(l, *b)?)))
                .map(|(i, l, v)| (at(i), axis.at(v), format!("{} at {b} bits: {}", l.name, number(v))))
                .collect();
            c.path(&points.iter().map(|p| (p.0, p.1)).collect::<Vec<_>>(), colour);
            points.iter().for_each(|(x, y, tip)| c.point((*x, *y), colour, tip));
        }
        if p.layers.len() <= 80 {
            for (i, l) in p.layers.iter().enumerate() {
                c.text((at(i) + 4.0, pixels.0 + 8.0), "end", &names.short(&l.name), -60.0);
            }
        }
        let _ = writeln!(out, "<div class=\"scroll\">{}</div>", c.finish());
    }
}

fn measured(out: &mut String, p: &Profile) {
    let mut pairs: Vec<(u8, u8)> = p.layers.iter().flat_map(|l| l.measured.keys().copied()).collect();
    pairs.sort_unstable();
    pairs.dedup();
    if pairs.is_empty() {
        return;
    }
    out.push_str("<h2>Predicted and measured</h2>\n<p class=\"note\">Every point is one layer quantized alone: Omega/2 against the \
                  divergence from the float network (both logarithmic).</p>\n");
    for (w, a) in pairs {
        let points: Vec<(&LayerProfile, f64, f64)> = p
            .layers
            .iter()
            .filter_map(|l| {
                let m = l.measured.get(&(w, a))?;
                Some((l, l.omega(Metric::default(), w, a).ok()?.mean / 2.0, m.divergence.mean))
            })
            .filter(|(_, o, d)| *o > 0.0 && *d > 0.0)
            .collect();
        if points.len() < 2 {
            continue;
        }
        let mut c = Chart::new(560.0, 400.0, "predicted and measured");
        let (across, up) = (c.across(), c.up(48.0));
        let both = || points.iter().flat_map(|p| [p.1, p.2]);
        let (x, y) = (Axis::new(both(), true, across), Axis::new(both(), true, up));
        c.y_axis(&y, "measured divergence");
        c.x_axis(&x, up.0, &format!("Omega/2, {}", pair(w, a)));
        c.line((across.0, up.0), (across.1, up.1), "#999", 1.0);
        for (l, omega, divergence) in points {
            let tip = format!("{}: predicted {}, measured {}", l.name, number(omega), number(divergence));
            c.point((x.at(omega), y.at(divergence)), COLOURS[1], &tip);
        }
        out.push_str(&c.finish());
    }
    out.push_str(
        "<table><tr><th>metric</th><th>widths</th><th>layers</th><th>Spearman</th><th>Kendall</th>\
                  <th>Spearman, divergence</th></tr>\n",
    );
    for a in agreements(p) {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{:.3}</td><td>{:.3}</td><td>{:.3}</td></tr>",
            a.metric,
            pair(a.bits.0, a.bits.1),
            a.layers,
            a.spearman,
            a.kendall,
            a.divergence
        );
    }
    out.push_str("</table>\n");
}

/// `w4a8`, with `float` for a side that is left alone.
pub fn pair(w: u8, a: u8) -> String {
    let side = |b: u8| if b == FLOAT { "float".to_owned() } else { b.to_string() };
    format!("w {} a {}", side(w), side(a))
}

fn spectra(out: &mut String, p: &Profile) {
    for (name, s) in &p.spectra {
        let curve = krylov::curve(s, 600);
        let _ = writeln!(
            out,
            "<h2>Spectral density of {}</h2><p class=\"note\">{} eigenvalues; {} Lanczos runs of {} steps, smoothed by {}.</p>",
            escape(name),
            s.dimension,
            s.runs.len(),
            s.steps,
            number(curve.width)
        );
        let mut c = Chart::new(900.0, 320.0, "spectral density");
        let (across, up) = (c.across(), c.up(48.0));
        let peak = curve.points.iter().map(|p| p.1).fold(0.0, f64::max);
        // Five decades: the tail is what matters, the peak at 0 hides it on a linear axis.
        let floor = peak * 1e-5;
        let x = Axis::new(curve.points.iter().map(|p| p.0), false, across);
        let y = Axis::new(curve.points.iter().map(|p| p.1).filter(|d| *d >= floor), true, up);
        c.y_axis(&y, "density");
        c.x_axis(&x, up.0, "eigenvalue");
        let points: Vec<_> = curve.points.iter().map(|p| (x.at(p.0), y.at(p.1))).collect();
        c.path(&points, COLOURS[0]);
        out.push_str(&c.finish());
    }
}

fn table(out: &mut String, p: &Profile) {
    out.push_str("<h2>Layers</h2>\n<div class=\"scroll\"><table><tr><th>layer</th><th>weights</th><th>MAC</th><th>trace</th>\
                  <th>± %</th><th>data ± %</th><th>activation trace</th><th>± %</th><th>eigenvalue</th><th>Fisher</th>\
                  <th>‖ΔW‖² at 4 bits</th><th>‖Δa‖² at 4 bits</th></tr>\n");
    let estimate = |e: Option<Estimate>| match e {
        Some(e) => format!("<td>{}</td><td>{:.1}</td>", number(e.mean), 100.0 * e.relative_error()),
        None => "<td></td><td></td>".into(),
    };
    let value = |v: Option<f64>| format!("<td>{}</td>", v.map(number).unwrap_or_default());
    for l in &p.layers {
        let _ = write!(out, "<tr><td>{}</td><td>{}</td><td>{}</td>", escape(&l.name), l.parameters, l.macs);
        out.push_str(&estimate(l.weight_trace()));
        out.push_str(&value(l.weights.data_error.map(|e| 100.0 * e)));
        out.push_str(&estimate(l.activation_trace()));
        out.push_str(&value(l.weights.eigenvalues.first().map(|e| e.value)));
        out.push_str(&value(l.weights.fisher.map(|e| e.mean)));
        out.push_str(&value(l.weights.errors.get(&4).copied()));
        out.push_str(&value(l.activations.errors.get(&4).copied()));
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::sensitivity::file::tests::everything;

    #[test]
    fn the_page_needs_nothing_from_outside() {
        let page = page(&everything(), "<net>");
        for word in ["http://", "https://", "src=", "href=", "<script", "@import", "url("] {
            let foreign = page.matches(word).count();
            let own = if word == "http://" { page.matches("http://www.w3.org/2000/svg").count() } else { 0 };
            assert_eq!(foreign, own, "{word}");
        }
        assert!(
            page.contains("conv/1: ä")
                && page.contains("&lt;net&gt;")
                && page.contains("Spectral density of fc")
        );
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn an_empty_profile_has_a_page_too() {
        assert!(page(&Profile::default(), "x").contains("0 layers"));
    }
}
