//! The report's charts as SVG text. Colours are classes that the page's style sheet resolves, so
//! that one drawing serves light, dark and paper; text stays text.
//!
//! The drawing code is our own because the chart libraries for Rust write fixed colours, and no
//! `<title>` for screen readers and pointers. It is one file of over 500 lines because all charts
//! share its axes, labels and marks.

use crate::escape::escape;
use std::fmt::Write;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Colours that differ; beyond these, series differ by mark and dash pattern.
pub const COLOURS: usize = 8;

/// At most `width` terminal columns of `text`. What is cut is the middle, because names of a grid
/// differ at their ends.
pub fn shortened(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let taken = |characters: &mut dyn Iterator<Item = char>, room: usize| {
        let mut used = 0;
        let fits = characters.take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= room
        });
        fits.collect::<Vec<char>>()
    };
    let room = width.saturating_sub(1);
    let head = taken(&mut text.chars(), room / 3);
    let tail = taken(&mut text.chars().rev(), room - room / 3);
    head.into_iter().chain(['…']).chain(tail.into_iter().rev()).collect()
}

/// How a series looks, in every chart alike: by its place among the variants.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub index: usize,
    /// Drawn hollow, and its lines dotted.
    pub hollow: bool,
}

impl Look {
    pub fn colour(self) -> usize {
        self.index % COLOURS
    }

    fn dash(self) -> &'static str {
        match (self.hollow, self.index / COLOURS) {
            (true, _) => "2 3",
            (false, 0) => "none",
            (false, 1) => "8 3",
            (false, 2) => "8 3 2 3",
            _ => "4 2",
        }
    }

    /// The mark, centred on a point.
    fn mark(self, x: f64, y: f64, r: f64) -> String {
        let class =
            format!("class=\"m c{}{}\"", self.colour(), if self.hollow { " hollow" } else { "" });
        let polygon = |points: &[(f64, f64)]| {
            let points: Vec<String> = points
                .iter()
                .map(|(dx, dy)| format!("{:.1},{:.1}", x + dx * r, y + dy * r))
                .collect();
            format!("<polygon {class} points=\"{}\"/>", points.join(" "))
        };
        // After a full turn of colours the shapes shift by one, so that no pair of colour and shape
        // comes twice.
        match (self.index + self.index / COLOURS) % 6 {
            0 => format!("<circle {class} cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r:.1}\"/>"),
            1 => polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
            2 => polygon(&[(0.0, -1.15), (1.1, 0.85), (-1.1, 0.85)]),
            3 => polygon(&[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]),
            4 => polygon(&[(0.0, 1.15), (1.1, -0.85), (-1.1, -0.85)]),
            _ => polygon(&[
                (-0.6, -1.1),
                (0.6, -1.1),
                (1.2, 0.0),
                (0.6, 1.1),
                (-0.6, 1.1),
                (-1.2, 0.0),
            ]),
        }
    }

    /// The legend's swatch: a piece of line with the mark on it.
    pub fn swatch(self) -> String {
        format!(
            "<svg class=\"swatch\" viewBox=\"0 0 28 14\" width=\"28\" height=\"14\" aria-hidden=\"true\"><path class=\"l c{}\" stroke-dasharray=\"{}\" d=\"M1 7H27\"/>{}</svg>",
            self.colour(),
            self.dash(),
            self.mark(14.0, 7.0, 4.5)
        )
    }
}

/// A range of values with round ticks.
#[derive(Clone, Debug)]
pub struct Scale {
    lo: f64,
    hi: f64,
    step: f64,
    decimals: usize,
    /// From and to in the drawing.
    from: f64,
    to: f64,
}

impl Scale {
    /// Covers `lo..=hi`, widened to round numbers, with about `ticks` ticks. None if there is
    /// nothing finite to cover.
    pub fn round(lo: f64, hi: f64, ticks: usize, from: f64, to: f64) -> Option<Self> {
        if !lo.is_finite() || !hi.is_finite() || lo > hi {
            return None;
        }
        let (lo, hi) = match hi - lo > 1e-9 * hi.abs().max(1e-300) {
            true => (lo, hi),
            // All values alike: some room around them.
            false => (lo - 0.05 * lo.abs().max(1e-3), hi + 0.05 * hi.abs().max(1e-3)),
        };
        let raw = (hi - lo) / ticks as f64;
        let power = 10f64.powf(raw.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw * 0.999)?;
        let decimals = (-(step.log10() + 1e-9).floor()).clamp(0.0, 8.0) as usize;
        let (lo, hi) = ((lo / step + 1e-9).floor() * step, (hi / step - 1e-9).ceil() * step);
        Some(Scale { lo, hi, step, decimals, from, to })
    }

    pub fn at(&self, value: f64) -> f64 {
        self.from + (value - self.lo) / (self.hi - self.lo) * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = (f64, String)> + '_ {
        let n = ((self.hi - self.lo) / self.step).round() as usize;
        (0..=n).map(|i| {
            let value = self.lo + i as f64 * self.step;
            let value = if value.abs() < self.step * 1e-6 { 0.0 } else { value };
            (value, format!("{value:.*}", self.decimals))
        })
    }
}

/// Opens a drawing that names itself to screen readers. `slug` must be unique on the page.
fn open(out: &mut String, slug: &str, width: f64, height: f64, title: &str, description: &str) {
    let _ = write!(
        out,
        "<svg class=\"chart\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-labelledby=\"{slug}-t {slug}-d\"><title id=\"{slug}-t\">{}</title><desc id=\"{slug}-d\">{}</desc>",
        escape(title),
        escape(description)
    );
}

fn text(out: &mut String, class: &str, x: f64, y: f64, content: &str) {
    let _ =
        write!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(content));
}

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = WIDTH - 14.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = HEIGHT - 44.0;

/// Grid, tick labels and axis titles; the vertical axis is named above the plot, where it can be
/// read without tilting the head.
fn axes(out: &mut String, x: &Scale, y: &Scale, x_title: &str, y_title: &str) {
    for (value, label) in y.ticks() {
        let at = y.at(value);
        let _ = write!(out, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/>");
        text(out, "tick end", LEFT - 6.0, at + 4.0, &label);
    }
    for (value, label) in x.ticks() {
        let at = x.at(value);
        let _ = write!(out, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{BOTTOM}\"/>");
        text(out, "tick mid", at, BOTTOM + 16.0, &label);
    }
    let _ = write!(out, "<path class=\"axis\" d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\"/>");
    text(out, "axis-title", 4.0, TOP - 14.0, y_title);
    text(out, "axis-title mid", (LEFT + RIGHT) / 2.0, HEIGHT - 8.0, x_title);
}

/// A variant's point in a scatter chart.
#[derive(Clone, Debug)]
pub struct Point {
    pub look: Look,
    pub name: String,
    pub x: f64,
    pub y: f64,
    /// Half the length of the error bar.
    pub error: Option<f64>,
}

/// Axis-aligned boxes that labels must not touch.
#[derive(Clone, Copy)]
struct Area(f64, f64, f64, f64);

impl Area {
    fn overlaps(&self, other: &Area) -> bool {
        self.0 < other.2 && other.0 < self.2 && self.1 < other.3 && other.1 < self.3
    }
}

/// Points with error bars and, where there is room, their names. None for fewer than two: one point
/// compares nothing.
pub fn scatter(
    slug: &str,
    title: &str,
    x_title: &str,
    y_title: &str,
    points: &[Point],
) -> Option<String> {
    let fold = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(lo, hi), v| (lo.min(v), hi.max(v)))
    };
    let (x_lo, x_hi) = fold(&mut points.iter().map(|p| p.x));
    let reach =
        points.iter().flat_map(|p| [p.y - p.error.unwrap_or(0.0), p.y + p.error.unwrap_or(0.0)]);
    let (y_lo, y_hi) = fold(&mut { reach });
    // Air around the outermost points, so that none sits on the frame.
    let (dx, dy) = ((x_hi - x_lo) * 0.08, (y_hi - y_lo) * 0.08);
    let lowest = if x_lo >= 0.0 { (x_lo - dx).max(0.0) } else { x_lo - dx };
    let x = Scale::round(lowest, x_hi + dx, 6, LEFT, RIGHT)?;
    let y = Scale::round(y_lo - dy, y_hi + dy, 6, BOTTOM, TOP)?;
    let described: Vec<String> = points
        .iter()
        .map(|p| {
            let error = p.error.map_or_else(String::new, |e| format!(" ± {e:.4}"));
            format!("{}: {:.3} and {:.4}{error}", p.name, p.x, p.y)
        })
        .collect();
    let mut out = String::new();
    open(
        &mut out,
        slug,
        WIDTH,
        HEIGHT,
        title,
        &format!("{x_title} and {y_title}. {}.", described.join("; ")),
    );
    axes(&mut out, &x, &y, x_title, y_title);
    let mut taken: Vec<Area> = points
        .iter()
        .map(|p| {
            let (px, py) = (x.at(p.x), y.at(p.y));
            Area(px - 7.0, py - 7.0, px + 7.0, py + 7.0)
        })
        .collect();
    taken.extend(points.iter().filter_map(|p| {
        let (px, error) = (x.at(p.x), p.error?);
        Some(Area(px - 2.0, y.at(p.y + error), px + 2.0, y.at(p.y - error)))
    }));
    for p in points {
        let (px, py) = (x.at(p.x), y.at(p.y));
        let _ = write!(
            out,
            "<g><title>{}</title>",
            escape(&described[points.iter().position(|q| q.name == p.name)?])
        );
        if let Some(error) = p.error {
            let (top, bottom) = (y.at(p.y + error), y.at(p.y - error));
            let _ = write!(
                out,
                "<path class=\"e c{}\" d=\"M{px:.1} {top:.1}V{bottom:.1}M{:.1} {top:.1}h8M{:.1} {bottom:.1}h8\"/>",
                p.look.colour(),
                px - 4.0,
                px - 4.0
            );
        }
        out.push_str(&p.look.mark(px, py, 5.5));
        out.push_str("</g>");
        // A name that finds no free place is left to the legend.
        let name = shortened(&p.name, 22);
        let width = 7.0 * name.width() as f64;
        let places = [
            ("", px + 10.0, py + 4.0, px + 9.0),
            ("end", px - 10.0, py + 4.0, px - 9.0 - width),
            ("mid", px, py - 11.0, px - width / 2.0),
            ("mid", px, py + 19.0, px - width / 2.0),
            ("", px + 8.0, py - 8.0, px + 8.0),
            ("", px + 8.0, py + 16.0, px + 8.0),
            ("end", px - 8.0, py - 8.0, px - 8.0 - width),
            ("end", px - 8.0, py + 16.0, px - 8.0 - width),
        ];
        for (anchor, tx, ty, left) in places {
            let area = Area(left, ty - 11.0, left + width, ty + 3.0);
            let inside = area.0 > LEFT && area.2 < WIDTH && area.1 > TOP - 8.0 && area.3 < BOTTOM;
            if inside && !taken.iter().any(|t| t.overlaps(&area)) {
                text(&mut out, &format!("label {anchor}"), tx, ty, &name);
                taken.push(area);
                break;
            }
        }
    }
    out.push_str("</svg>");
    Some(out)
}

/// (x, mean, lowest, highest).
pub type LinePoint = (f64, f64, f64, f64);

/// A line: points, and below and above them the range over seeds where there are several.
#[derive(Clone, Debug)]
pub struct Line {
    pub look: Look,
    pub name: String,
    pub points: Vec<LinePoint>,
}

/// At most `n` points: means of neighbours, so that a long run does not make a heavy page.
fn thinned(points: &[LinePoint], n: usize) -> Vec<LinePoint> {
    let size = points.len().div_ceil(n).max(1);
    let mean = |chunk: &[LinePoint]| {
        let k = chunk.len() as f64;
        let sum = chunk
            .iter()
            .fold((0.0, 0.0, 0.0, 0.0), |s, p| (s.0 + p.0, s.1 + p.1, s.2 + p.2, s.3 + p.3));
        (sum.0 / k, sum.1 / k, sum.2 / k, sum.3 / k)
    };
    points.chunks(size).map(mean).collect()
}

/// Lines over a common axis. The steep beginning is cut off at the top, or the differences at the
/// end would not be seen. None without points.
pub fn lines(
    slug: &str,
    title: &str,
    x_title: &str,
    y_title: &str,
    lines: &[Line],
) -> Option<String> {
    let thin: Vec<(&Line, Vec<LinePoint>)> =
        lines.iter().map(|l| (l, thinned(&l.points, 300))).collect();
    let all = || thin.iter().flat_map(|(_, points)| points);
    let x_hi = all().map(|p| p.0).fold(f64::MIN, f64::max);
    let y_lo = all().map(|p| p.2).fold(f64::MAX, f64::min);
    let y_top = all().map(|p| p.3).fold(f64::MIN, f64::max);
    let after_start = all().filter(|p| p.0 >= 0.15 * x_hi).map(|p| p.3).fold(f64::MIN, f64::max);
    let y_hi = if after_start > y_lo { after_start + 0.05 * (after_start - y_lo) } else { y_top };
    let x = Scale::round(0.0, x_hi, 6, LEFT, RIGHT)?;
    let y = Scale::round(y_lo, y_hi, 6, BOTTOM, TOP)?;
    let described: Vec<String> = lines
        .iter()
        .filter_map(|l| Some(format!("{} ends at {:.4}", l.name, l.points.last()?.1)))
        .collect();
    let mut out = String::new();
    open(
        &mut out,
        slug,
        WIDTH,
        HEIGHT,
        title,
        &format!("{y_title} over {x_title}. {}.", described.join("; ")),
    );
    axes(&mut out, &x, &y, x_title, y_title);
    let _ = write!(
        out,
        "<clipPath id=\"{slug}-clip\"><rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{}\" height=\"{}\"/></clipPath><g clip-path=\"url(#{slug}-clip)\">",
        RIGHT - LEFT,
        BOTTOM - TOP
    );
    for (line, points) in &thin {
        let path = |points: &mut dyn Iterator<Item = (f64, f64)>| {
            let points: Vec<String> =
                points.map(|(px, py)| format!("{:.1} {:.1}", x.at(px), y.at(py))).collect();
            points.join("L")
        };
        if points.iter().any(|p| p.2 < p.3) {
            let upper = path(&mut points.iter().map(|p| (p.0, p.3)));
            let lower = path(&mut points.iter().rev().map(|p| (p.0, p.2)));
            let _ = write!(
                out,
                "<path class=\"band c{}\" d=\"M{upper}L{lower}Z\"/>",
                line.look.colour()
            );
        }
        let _ = write!(
            out,
            "<path class=\"l c{}\" stroke-dasharray=\"{}\" d=\"M{}\"><title>{}</title></path>",
            line.look.colour(),
            line.look.dash(),
            path(&mut points.iter().map(|p| (p.0, p.1))),
            escape(&line.name)
        );
        if let [only] = points.as_slice() {
            out.push_str(&line.look.mark(x.at(only.0), y.at(only.1), 4.0));
        }
    }
    out.push_str("</g></svg>");
    Some(out)
}

/// A part of a bar: its class, and its length in the bars' unit.
#[derive(Clone, Debug)]
pub struct Part {
    pub class: String,
    pub title: String,
    pub length: f64,
}

/// A horizontal bar.
#[derive(Clone, Debug)]
pub struct Bar {
    pub look: Look,
    pub name: String,
    pub parts: Vec<Part>,
    /// Written at its end.
    pub value: String,
}

/// Horizontal bars from zero to `full`, each named at its left and valued at its end, so that no
/// colour has to be matched. `width`: of the drawing. None without bars.
pub fn bars(
    slug: &str,
    title: &str,
    description: &str,
    width: f64,
    full: f64,
    bars: &[Bar],
) -> Option<String> {
    if bars.is_empty() || !full.is_finite() || full <= 0.0 {
        return None;
    }
    let widest = bars.iter().map(|b| b.name.width()).max().unwrap_or(0).min(20);
    let left = 24.0 + 7.2 * widest as f64;
    let value = 10.0 + 7.0 * bars.iter().map(|b| b.value.width()).max().unwrap_or(0) as f64;
    let scale = (width - left - value) / full;
    let height = 20.0 * bars.len() as f64 + 4.0;
    let mut out = String::new();
    open(&mut out, slug, width, height, title, description);
    for (i, bar) in bars.iter().enumerate() {
        let top = 20.0 * i as f64 + 3.0;
        let _ = write!(out, "<g><title>{}: {}</title>", escape(&bar.name), escape(&bar.value));
        out.push_str(&bar.look.mark(8.0, top + 7.5, 4.2));
        text(&mut out, "label", 18.0, top + 12.0, &shortened(&bar.name, 20));
        let mut at = left;
        for part in &bar.parts {
            let length = (part.length * scale).max(0.0);
            let _ = write!(
                out,
                "<rect class=\"{}\" x=\"{at:.1}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"15\"><title>{}</title></rect>",
                part.class,
                escape(&part.title)
            );
            at += length;
        }
        text(&mut out, "tick", at + 5.0, top + 12.0, &bar.value);
        out.push_str("</g>");
    }
    out.push_str("</svg>");
    Some(out)
}

/// A small histogram of patch lengths: `shares[i]` is the share of patches of `i + 1` bytes; the
/// last one also counts longer patches if `open_ended`. A line marks `mean`. None without shares.
pub fn histogram(
    slug: &str,
    title: &str,
    look: Look,
    shares: &[f64],
    open_ended: bool,
    mean: Option<f64>,
) -> Option<String> {
    let more = |i: usize| if open_ended && i + 1 == shares.len() { "+" } else { "" };
    let labels: Vec<String> = (0..shares.len()).map(|i| format!("{}{}", i + 1, more(i))).collect();
    let mean = mean.map(|m| (m - 0.5, m));
    bins(
        slug,
        title,
        "Share of patches by length in bytes.",
        look,
        shares,
        &labels,
        &|i| i + 1,
        mean,
    )
}

/// A small histogram of numbers: `shares[i]` is the share of those from `from + i * width` on.
/// `mean`: marked by a line. None without shares.
pub fn distribution(
    slug: &str,
    title: &str,
    look: Look,
    shares: &[f64],
    (from, width): (f64, f64),
    mean: Option<f64>,
) -> Option<String> {
    let labels: Vec<String> =
        (0..shares.len()).map(|i| format!("{:.1}", from + i as f64 * width)).collect();
    // Round numbers get a label.
    let first = (from / width).round() as usize;
    let mean = mean.map(|m| ((m - from) / width, m));
    bins(
        slug,
        title,
        "Share of documents by where their bin begins.",
        look,
        shares,
        &labels,
        &|i| first + i,
        mean,
    )
}

/// Bars of shares. `labels` are the values of the bars; the axis shows as many as there is room
/// for, where `number` is round. `mean`: its place, in bars from the left end, and its value.
#[allow(clippy::too_many_arguments, reason = "two callers in this file")]
fn bins(
    slug: &str,
    title: &str,
    about: &str,
    look: Look,
    shares: &[f64],
    labels: &[String],
    number: &dyn Fn(usize) -> usize,
    mean: Option<(f64, f64)>,
) -> Option<String> {
    let highest = shares.iter().copied().fold(0.0, f64::max);
    if shares.is_empty() || highest <= 0.0 {
        return None;
    }
    const W: f64 = 240.0;
    const H: f64 = 130.0;
    let (left, right, top, bottom) = (40.0, W - 6.0, 8.0, H - 20.0);
    let y = Scale::round(0.0, highest * 100.0, 3, bottom, top)?;
    let each = (right - left) / shares.len() as f64;
    let described: Vec<String> = labels
        .iter()
        .zip(shares)
        .map(|(label, s)| format!("{label}: {:.1} %", s * 100.0))
        .collect();
    let mut out = String::new();
    open(&mut out, slug, W, H, title, &format!("{about} {}", described.join("; ")));
    for (value, label) in y.ticks() {
        let at = y.at(value);
        let _ = write!(out, "<path class=\"grid\" d=\"M{left} {at:.1}H{right}\"/>");
        text(&mut out, "tick end", left - 4.0, at + 4.0, &format!("{label}%"));
    }
    for (i, share) in shares.iter().enumerate() {
        let at = y.at(share * 100.0);
        let _ = write!(
            out,
            "<rect class=\"f c{}{}\" x=\"{:.1}\" y=\"{at:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
            look.colour(),
            if look.hollow { " hollow" } else { "" },
            left + i as f64 * each + 0.5,
            (each - 1.0).max(0.6),
            bottom - at,
            escape(&described[i])
        );
    }
    // A label where there is room for one.
    let every = [1, 2, 5, 10, 20, 50, 100, 200, 500]
        .into_iter()
        .find(|&e| e as f64 * each >= 20.0)
        .unwrap_or(1000);
    for (i, label) in labels.iter().enumerate() {
        if number(i).is_multiple_of(every) || (every > 1 && number(i) == 1) {
            text(&mut out, "tick mid", left + (i as f64 + 0.5) * each, bottom + 14.0, label);
        }
    }
    if let Some((place, mean)) =
        mean.filter(|(place, _)| (0.0..=shares.len() as f64).contains(place))
    {
        let at = left + place * each;
        let _ = write!(
            out,
            "<path class=\"mean\" d=\"M{at:.1} {top}V{bottom}\"><title>mean {mean:.2}</title></path>"
        );
    }
    let _ = write!(out, "<path class=\"axis\" d=\"M{left} {bottom}H{right}\"/></svg>");
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_round_and_cover_what_they_show() {
        for (lo, hi) in [
            (0.0, 1.0),
            (2.17, 2.31),
            (-3.0, 0.4),
            (5.0, 5.0),
            (0.0, 0.0),
            (1e-7, 3e-7),
            (99.0, 123456.0),
        ] {
            let scale = Scale::round(lo, hi, 6, 0.0, 100.0).unwrap();
            assert!(scale.at(lo) >= -1e-9 && scale.at(hi) <= 100.0 + 1e-9, "{lo} {hi}: {scale:?}");
            let labels: Vec<String> = scale.ticks().map(|(_, label)| label).collect();
            assert!((2..=9).contains(&labels.len()), "{labels:?}");
            for (i, label) in labels.iter().enumerate() {
                assert!(!labels[..i].contains(label), "{labels:?}");
            }
        }
        assert!(
            Scale::round(f64::NAN, 1.0, 6, 0.0, 1.0).is_none()
                && Scale::round(f64::MAX, f64::MIN, 6, 0.0, 1.0).is_none()
        );
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("graph.encoder.pooling=max", 13), "grap…ling=max");
        let wide = shortened("한국어 이름이 아주 길다", 9);
        assert!(wide.width() <= 9 && wide.contains('…'), "{wide}");
    }

    #[test]
    fn thinning_keeps_means() {
        let points: Vec<LinePoint> = (0..10).map(|i| (i as f64, i as f64, 0.0, 1.0)).collect();
        assert_eq!(thinned(&points, 5).len(), 5);
        assert_eq!(thinned(&points, 5)[0], (0.5, 0.5, 0.0, 1.0));
    }
}
