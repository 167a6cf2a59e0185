//! `culex-bench charts`: draws what was measured. The data are lines of JSON, so that whoever doubts a picture finds its
//! figures:
//!
//! ```json
//! {"chart":"payload","title":"Cost of a message over its size","x":"payload, bytes","y":"CPU µs per message"}
//! {"chart":"payload","series":"Culex","at":64,"value":0.2}
//! ```
//!
//! One line about each chart, then its points. The x axis is logarithmic, the y axis begins at 0.

use crate::Trouble;
use clap::Args;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What is drawn, and where to.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Lines of JSON
    data: PathBuf,
    /// Where CHART.svg is written, for each chart
    folder: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Line {
    About { chart: String, title: String, x: String, y: String },
    Point { chart: String, series: String, at: f64, value: f64 },
}

#[derive(Debug, Default)]
struct Chart {
    title: String,
    x: String,
    y: String,
    /// In the order in which they came.
    series: Vec<(String, Vec<(f64, f64)>)>,
}

/// Draws all charts; says which.
pub(crate) fn run(plan: &Plan) -> Result<String, Trouble> {
    let about =
        |path: &Path, error: &dyn std::fmt::Display| Trouble::new(format!("{}: {error}", path.display()));
    let data = std::fs::read_to_string(&plan.data).map_err(|error| about(&plan.data, &error))?;
    let charts = read(&data).map_err(|error| about(&plan.data, &error))?;
    std::fs::create_dir_all(&plan.folder).map_err(|error| about(&plan.folder, &error))?;
    let mut text = String::new();
    for (name, chart) in &charts {
        let path = plan.folder.join(format!("{name}.svg"));
        std::fs::write(&path, chart.svg()).map_err(|error| about(&path, &error))?;
        writeln!(text, "{}", path.display()).ok();
    }
    Ok(text)
}

fn read(data: &str) -> Result<BTreeMap<String, Chart>, String> {
    let mut charts = BTreeMap::<String, Chart>::new();
    for (index, line) in data.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: &str| format!("line {}: {what}", index + 1);
        match serde_json::from_str(line).map_err(|_| wrong("expected a chart or a point of one"))? {
            Line::About { chart, title, x, y } => {
                charts.insert(chart, Chart { title, x, y, series: Vec::new() });
            }
            Line::Point { at, value, .. } if !(at > 0.0 && value >= 0.0 && value.is_finite()) => {
                return Err(wrong("expected numbers, `at` above 0"));
            }
            Line::Point { chart, series, at, value } => {
                let chart =
                    charts.get_mut(&chart).ok_or_else(|| wrong("nothing was said about its chart"))?;
                match chart.series.iter_mut().find(|(name, _)| *name == series) {
                    Some((_, points)) => points.push((at, value)),
                    None => chart.series.push((series, vec![(at, value)])),
                }
            }
        }
    }
    Ok(charts)
}

const WIDTH: f64 = 680.0;
const HEIGHT: f64 = 380.0;
/// The drawing itself: left, right, top, bottom.
const FRAME: (f64, f64, f64, f64) = (70.0, 500.0, 50.0, 320.0);
/// Told apart by people who see few colours, too (Okabe and Ito, 2008).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

impl Chart {
    fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|(_, points)| points);
        let (low, high) =
            points().fold((f64::MAX, f64::MIN), |(low, high), (at, _)| (low.min(*at), high.max(*at)));
        let most = points().fold(0.0, |most: f64, (_, value)| most.max(*value));
        let step = step(most);
        let top = (most / step).ceil().max(1.0) * step;
        let (left, right, up, down) = FRAME;
        let span = if high > low { (high / low).ln() } else { 1.0 };
        let x = |at: f64| left + (right - left) * ((at / low).ln() / span);
        let y = |value: f64| down - (down - up) * value / top;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <text x=\"{left}\" y=\"24\" font-size=\"15\">{}</text>\n",
            escaped(&self.title)
        );
        for number in 0..=(top / step).round() as u32 {
            let value = f64::from(number) * step;
            let at = y(value);
            writeln!(svg, "<path d=\"M{left} {at:.1}H{right}\" stroke=\"#ddd\"/>").ok();
            let (tick, base) = (left - 8.0, at + 4.0);
            writeln!(svg, "<text x=\"{tick}\" y=\"{base:.1}\" text-anchor=\"end\">{}</text>", short(value))
                .ok();
        }
        let mut ticks: Vec<f64> = points().map(|(at, _)| *at).collect();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        let mut last = f64::MIN;
        for at in ticks {
            // Not one upon the other.
            if x(at) - last >= 36.0 {
                last = x(at);
                let base = down + 18.0;
                writeln!(
                    svg,
                    "<text x=\"{last:.1}\" y=\"{base}\" text-anchor=\"middle\">{}</text>",
                    short(at)
                )
                .ok();
            }
        }
        let (middle, base) = (f64::midpoint(left, right), down + 42.0);
        writeln!(svg, "<text x=\"{middle}\" y=\"{base}\" text-anchor=\"middle\">{}</text>", escaped(&self.x))
            .ok();
        writeln!(svg, "<text x=\"{left}\" y=\"42\" fill=\"#555\">{}</text>", escaped(&self.y)).ok();
        for (number, (name, points)) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let path: Vec<String> =
                points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
            let path = path.join(" ");
            writeln!(
                svg,
                "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
            )
            .ok();
            for (at, value) in points {
                writeln!(
                    svg,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                    x(*at),
                    y(*value)
                )
                .ok();
            }
            let (key, line) = (right + 16.0, up + 12.0 + 20.0 * number as f64);
            let base = line + 4.0;
            writeln!(svg, "<circle cx=\"{key}\" cy=\"{line}\" r=\"4\" fill=\"{colour}\"/>").ok();
            writeln!(svg, "<text x=\"{}\" y=\"{base}\">{}</text>", key + 10.0, escaped(name)).ok();
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Between ticks: 1, 2 or 5 times a power of ten, so that there are at most eight.
fn step(most: f64) -> f64 {
    let power = 10f64.powf((most.max(1e-9) / 8.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|one| one * power).find(|step| most / step <= 8.0).unwrap_or(power)
}

fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        value if value >= 1e6 => (value / 1e6, " M"),
        value if value >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    // As many places as say something.
    let text = format!("{scaled:.3}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str = r#"{"chart":"size","title":"A < B","x":"bytes","y":"µs"}
{"chart":"size","series":"one","at":10,"value":1.5}
{"chart":"size","series":"one","at":1000,"value":3}
{"chart":"size","series":"two & more","at":100,"value":0}
"#;

    #[test]
    fn a_point_is_where_its_numbers_say() {
        let charts = read(DATA).unwrap();
        let svg = charts["size"].svg();
        assert!(svg.contains("A &lt; B") && svg.contains("two &amp; more"), "{svg}");
        let (left, right, up, down) = FRAME;
        // Half as high as the highest; the highest at the top, a hundred times as far; in the middle, at the bottom.
        let half = f64::midpoint(up, down);
        assert!(svg.contains(&format!("points=\"{left:.1},{half:.1} {right:.1},{up:.1}\"")), "{svg}");
        let middle = f64::midpoint(left, right);
        assert!(svg.contains(&format!("points=\"{middle:.1},{down:.1}\"")), "{svg}");
    }

    #[test]
    fn what_cannot_be_drawn_is_named_by_its_line() {
        for (line, what) in [
            ("{}", "line 1: expected a chart or a point of one"),
            (r#"{"chart":"x","series":"s","at":1,"value":1}"#, "line 1: nothing was said about its chart"),
            (r#"{"chart":"x","series":"s","at":0,"value":1}"#, "line 1: expected numbers, `at` above 0"),
        ] {
            assert_eq!(read(line).unwrap_err(), what);
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        for (most, expected) in [(0.9, 0.2), (8.0, 1.0), (8.1, 2.0), (35.0, 5.0), (1_700.0, 500.0)] {
            assert!((step(most) - expected).abs() < 1e-9, "{most}: {}", step(most));
        }
        assert_eq!(
            [short(0.25), short(64.0), short(16_384.0), short(1e6)],
            ["0.25", "64", "16.384 k", "1 M"]
        );
    }
}
