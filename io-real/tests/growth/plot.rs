//! Curves of what `growth` measured, as an SVG: a small chart for each quantity over the number of messages.
//!
//! The one law: **what is drawn is what was measured**: a point for each look, the axis from zero, no smoothing.

use std::fmt::Write as _;

use serde_json::Value;

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 190.0;
/// Room for the title above, for numbers at the left and below, and to the next chart.
const TOP: f64 = 34.0;
const LEFT: f64 = 58.0;
const BELOW: f64 = 36.0;
const RIGHT: f64 = 24.0;
const COLUMNS: usize = 3;

/// A chart: its title, and the name and label of each curve, in what it is divided by.
type Chart = (&'static str, f64, &'static [(&'static str, &'static str)]);

const CHARTS: [Chart; 6] = [
    ("acknowledgements, thousands a second", 1e3, &[("acks_per_second", "")]),
    ("bytes of the file for each message", 1.0, &[("bytes_each", "")]),
    ("latency of acknowledgements, ms", 1e6, &[("p999_ns", "p99.9"), ("p99_ns", "p99"), ("p50_ns", "p50")]),
    ("cold page of 50, ms", 1e6, &[("page_p99_ns", "p99"), ("page_p50_ns", "p50")]),
    ("restart, ms", 1.0, &[("restart_all_ms", "of all"), ("restart_backup_ms", "of a backup")]),
    ("memory of a replica at most, MiB", 1.0, &[("memory_most_mib", "")]),
];
const COLOURS: [&str; 3] = ["#0b6e99", "#c0562f", "#5a7d2a"];

pub fn svg(looks: &[Value]) -> String {
    let rows = CHARTS.len().div_ceil(COLUMNS);
    let (cell_width, cell_height) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BELOW);
    let (width, height) = (cell_width * COLUMNS as f64, cell_height * rows as f64);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (at, chart) in CHARTS.iter().enumerate() {
        let (x, y) = ((at % COLUMNS) as f64 * cell_width + LEFT, (at / COLUMNS) as f64 * cell_height + TOP);
        let _ = writeln!(out, "<g transform=\"translate({x} {y})\">");
        draw(&mut out, chart, looks);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, (title, unit, curves): &Chart, looks: &[Value]) {
    let of = |look: &Value, name: &str| look[name].as_f64().map(|value| value / unit);
    let all = looks.iter().flat_map(|look| curves.iter().filter_map(move |(name, _)| of(look, name)));
    let top = rounded_up(all.fold(0.0, f64::max));
    let most = looks.iter().filter_map(|look| look["messages"].as_f64()).fold(1.0, f64::max);
    let place = |messages: f64, value: f64| (messages / most * WIDTH, HEIGHT - value / top * HEIGHT);
    let _ = writeln!(out, "<text x=\"0\" y=\"-12\" font-weight=\"bold\">{title}</text>");
    for quarter in 0..=4_u8 {
        let value = top * f64::from(quarter) / 4.0;
        let y = place(0.0, value).1;
        let _ = writeln!(out, "<path d=\"M0 {y:.1}H{WIDTH}\" stroke=\"#dddddd\"/>");
        let _ =
            writeln!(out, "<text x=\"-6\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", y + 4.0, number(value));
    }
    // Numbers of looks that stand close together are left out.
    let mut free_from = f64::MIN;
    for messages in looks.iter().filter_map(|look| look["messages"].as_f64()) {
        let x = place(messages, 0.0).0;
        if x >= free_from {
            let text = number(messages / 1e6);
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text} M</text>",
                HEIGHT + 16.0
            );
            free_from = x + 34.0;
        }
    }
    for ((name, label), colour) in curves.iter().zip(COLOURS) {
        let points: Vec<(f64, f64)> = looks
            .iter()
            .filter_map(|look| Some(place(look["messages"].as_f64()?, of(look, name)?)))
            .collect();
        let line: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        for (x, y) in &points {
            let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        if let Some((x, y)) = points.last().filter(|_| !label.is_empty()) {
            let (x, y) = (x - 8.0, y - 7.0);
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\" fill=\"{colour}\">{label}</text>"
            );
        }
    }
}

/// The next of 1, 2, 4, 6, 8, 10 times a power of ten.
fn rounded_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-9).log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(value)
}

fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// The short form tries this: a point of each curve for each look, and nothing that is no number.
pub fn must_be_drawn(svg: &str, looks: usize) {
    let curves: usize = CHARTS.iter().map(|(_, _, curves)| curves.len()).sum();
    assert_eq!(svg.matches("<circle").count(), curves * looks, "{svg}");
    assert_eq!(svg.matches("<polyline").count(), curves);
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}
