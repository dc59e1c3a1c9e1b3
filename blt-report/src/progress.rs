//! How far a run is: bars on a terminal, plain lines where the output is piped.

use blt_graph::{Progress, StepHeading};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Plain lines come no closer than this, so that a log stays readable.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// A line on standard error. A run goes on though nobody reads it (`2>&1 | head`), so what writing
/// answers does not matter.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The progress that fits standard error.
pub fn for_stderr() -> Box<dyn Progress> {
    match std::io::stderr().is_terminal() {
        true => Box::new(Bars::default()),
        false => Box::new(Lines::default()),
    }
}

fn title(heading: &StepHeading) -> String {
    let StepHeading { variant, seed, index, total, step, goals, reused } = heading;
    let reused = if *reused { " (unchanged, reused)" } else { "" };
    format!("[{}/{total}] {variant}, seed {seed}: {step} {}{reused}", index + 1, goals.join(", "))
}

fn fields_line(fields: &[(&str, String)]) -> String {
    fields.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join("  ")
}

#[derive(Default)]
struct Bars {
    bar: RefCell<Option<ProgressBar>>,
}

impl Progress for Bars {
    fn step(&self, heading: &StepHeading) {
        line(&title(heading));
    }

    fn start(&self, what: &str, total: Option<u64>) {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let style = match total {
            Some(_) => "  {prefix} {bar:30} {pos}/{len}  {msg}  {eta} left",
            None => "  {prefix} {spinner} {pos}  {msg}  {elapsed}",
        };
        // The templates are constants; one that did not parse would leave indicatif's own style.
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_prefix(what.to_owned());
        *self.bar.borrow_mut() = Some(bar);
    }

    fn update(&self, done: u64, fields: &[(&str, String)]) {
        if let Some(bar) = &*self.bar.borrow() {
            bar.set_position(done);
            bar.set_message(fields_line(fields));
        }
    }

    fn finish(&self, summary: &str) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            let what = bar.prefix();
            bar.finish_and_clear();
            line(&format!("  {what}: {summary}"));
        }
    }

    fn message(&self, line: &str) {
        match &*self.bar.borrow() {
            Some(bar) => bar.suspend(|| self::line(&format!("  {line}"))),
            None => self::line(&format!("  {line}")),
        }
    }
}

#[derive(Default)]
struct Lines {
    work: RefCell<Option<Work>>,
}

struct Work {
    what: String,
    total: Option<u64>,
    started: Instant,
    said: Instant,
}

impl Progress for Lines {
    fn step(&self, heading: &StepHeading) {
        line(&title(heading));
    }

    fn start(&self, what: &str, total: Option<u64>) {
        let now = Instant::now();
        *self.work.borrow_mut() =
            Some(Work { what: what.to_owned(), total, started: now, said: now });
    }

    fn update(&self, done: u64, fields: &[(&str, String)]) {
        let mut work = self.work.borrow_mut();
        let Some(work) = work.as_mut().filter(|w| w.said.elapsed() >= PLAIN_EVERY) else { return };
        work.said = Instant::now();
        let left = work.total.filter(|_| done > 0).map(|total| {
            let per_unit = work.started.elapsed().as_secs_f64() / done as f64;
            format!("  {:.0} s left", per_unit * total.saturating_sub(done) as f64)
        });
        let of = work.total.map_or(String::new(), |total| format!("/{total}"));
        line(&format!(
            "  {} {done}{of}  {}{}",
            work.what,
            fields_line(fields),
            left.unwrap_or_default()
        ));
    }

    fn finish(&self, summary: &str) {
        if let Some(work) = self.work.borrow_mut().take() {
            line(&format!("  {}: {summary}", work.what));
        }
    }

    fn message(&self, line: &str) {
        self::line(&format!("  {line}"));
    }
}
