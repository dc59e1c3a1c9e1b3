//! Sample texts as HTML: patch borders drawn, bytes shaded by entropy, whatever the bytes are.

use crate::escape::escape;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// A piece of text as one variant read it; see the `evaluate` step's samples.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Value of the column that evaluation was split by.
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub row: u64,
    /// Bytes of the text, as they are; not always UTF-8.
    pub bytes: Vec<u8>,
    /// Offsets into `bytes` where patches start.
    #[serde(default)]
    pub starts: Option<Vec<usize>>,
    /// Entropy of each byte in nats, as predicted from the bytes before it.
    #[serde(default)]
    pub entropies: Option<Vec<f32>>,
}

impl Sample {
    /// Whether both show the same piece of text, so that one's entropies are the other's.
    pub fn same_text(&self, other: &Sample) -> bool {
        (self.row, &self.group, &self.bytes) == (other.row, &other.group, &other.bytes)
    }

    /// Bytes that the patches cover that begin in the sample, and how many these are; the last one
    /// may go on and is left out.
    pub fn mean_patch(&self) -> Option<f64> {
        let starts = self.starts.as_ref()?;
        let (first, last) = (starts.first()?, starts.last()?);
        (starts.len() > 1).then(|| (last - first) as f64 / (starts.len() - 1) as f64)
    }
}

/// Shades of entropy, from none to the darkest.
pub const SHADES: usize = 8;

/// Shade of an entropy; `top`: the entropy that gets the darkest.
fn shade(entropy: f32, top: f32) -> usize {
    match entropy.is_finite() && top > 0.0 {
        true => ((entropy / top * SHADES as f32) as usize).min(SHADES - 1),
        false => 0,
    }
}

/// Characters that would rearrange or hide text around them.
fn is_invisible(c: char) -> bool {
    matches!(c as u32, 0xAD | 0x61C | 0x180E | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F | 0xFEFF | 0xFFF9..=0xFFFB | 0xE0000..=0xE007F)
}

/// A character, or a byte that is part of none.
struct Unit {
    from: usize,
    to: usize,
    html: String,
}

/// Splits bytes into characters and bytes that are none.
fn units(bytes: &[u8]) -> Vec<Unit> {
    let mut units = Vec::new();
    let mut at = 0;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let html = match c {
                '\n' => "<span class=\"nl\" aria-hidden=\"true\">↵</span>\n".to_owned(),
                '\t' => "\t".to_owned(),
                c if c.is_control() || is_invisible(c) => {
                    format!("<span class=\"odd\">U+{:04X}</span>", c as u32)
                }
                c => escape(c.encode_utf8(&mut [0; 4])),
            };
            units.push(Unit { from: at, to: at + c.len_utf8(), html });
            at += c.len_utf8();
        }
        for byte in chunk.invalid() {
            units.push(Unit {
                from: at,
                to: at + 1,
                html: format!("<span class=\"odd\">\\x{byte:02X}</span>"),
            });
            at += 1;
        }
    }
    units
}

/// `bytes` with a border before each start and each byte shaded. A character of several bytes is
/// shaded in as many slices, and a border inside it is drawn at its place, dashed.
pub fn html(bytes: &[u8], starts: &[usize], entropies: Option<&[f32]>, top: f32) -> String {
    let shades: Vec<usize> = match entropies {
        Some(e) => (0..bytes.len()).map(|i| e.get(i).map_or(0, |&e| shade(e, top))).collect(),
        None => vec![0; bytes.len()],
    };
    let mut starts: Vec<usize> = starts.iter().copied().filter(|&s| s < bytes.len()).collect();
    starts.sort_unstable();
    starts.dedup();
    let mut out = String::new();
    // Shade of the run that is open, to which a unit that looks alike is joined.
    let mut open: Option<usize> = None;
    let mut next = 0;
    for Unit { from, to, html } in units(bytes) {
        let begins = starts.get(next) == Some(&from);
        next += usize::from(begins);
        let inner = starts[next..].partition_point(|&s| s < to);
        let cuts = &starts[next..next + inner];
        next += inner;
        let uniform = shades[from..to].iter().all(|s| *s == shades[from]);
        if !begins && cuts.is_empty() && uniform && open == Some(shades[from]) {
            out.push_str(&html);
            continue;
        }
        if open.take().is_some() {
            out.push_str("</span>");
        }
        let border = if begins { " s" } else { "" };
        if uniform && cuts.is_empty() {
            let _ = write!(out, "<span class=\"h{}{border}\">{html}", shades[from]);
            open = Some(shades[from]);
            continue;
        }
        let percent = |byte: usize| 100.0 * (byte - from) as f64 / (to - from) as f64;
        if uniform {
            let _ = write!(out, "<span class=\"u h{}{border}\">{html}", shades[from]);
        } else {
            let slices: Vec<String> = (from..to)
                .map(|i| format!("var(--h{}) {:.0}% {:.0}%", shades[i], percent(i), percent(i + 1)))
                .collect();
            let _ = write!(
                out,
                "<span class=\"u{border}\" style=\"background:linear-gradient(90deg,{})\">{html}",
                slices.join(",")
            );
        }
        for &cut in cuts {
            let _ = write!(out, "<i style=\"left:{:.0}%\"></i>", percent(cut));
        }
        out.push_str("</span>");
    }
    if open.is_some() {
        out.push_str("</span>");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_border_inside_a_character_is_drawn_at_its_byte() {
        // 한 is three bytes; a patch starts at its second.
        let shown = html("a한b".as_bytes(), &[0, 2, 4], None, 1.0);
        assert_eq!(
            shown,
            "<span class=\"h0 s\">a</span><span class=\"u h0\">한<i style=\"left:33%\"></i></span><span class=\"h0 s\">b</span>"
        );
    }

    #[test]
    fn bytes_of_a_character_are_shaded_apart() {
        let shown = html("é".as_bytes(), &[0], Some(&[0.0, 1.0]), 1.0);
        assert!(
            shown.contains("linear-gradient(90deg,var(--h0) 0% 50%,var(--h7) 50% 100%)"),
            "{shown}"
        );
    }

    #[test]
    fn any_bytes_are_shown_and_none_is_markup() {
        let shown = html(b"<b>\xE3\x00\n", &[0, 1, 99], Some(&[0.1, f32::NAN]), 1.0);
        assert!(shown.contains("&lt;") && !shown.contains("<b>"), "{shown}");
        assert!(
            shown.contains("\\xE3") && shown.contains("U+0000") && shown.contains('↵'),
            "{shown}"
        );
        assert_eq!(shown.matches("<span").count(), shown.matches("</span>").count());
        let reversed = html("\u{202E}".as_bytes(), &[], None, 1.0);
        assert!(reversed.contains("U+202E") && !reversed.contains('\u{202E}'));
    }

    #[test]
    fn runs_that_look_alike_are_one_element() {
        assert_eq!(
            html(b"abcd", &[0, 2], None, 1.0),
            "<span class=\"h0 s\">ab</span><span class=\"h0 s\">cd</span>"
        );
        assert_eq!(html(b"", &[0], None, 1.0), "");
    }

    #[test]
    fn shades_end_at_the_top() {
        assert_eq!(
            (shade(0.0, 4.0), shade(4.0, 4.0), shade(9.0, 4.0), shade(-1.0, 4.0)),
            (0, 7, 7, 0)
        );
    }
}
