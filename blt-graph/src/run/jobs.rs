//! [`at_once`]: several variants at a time.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::progress::{Progress, StepHeading};
use crate::run::error::RunError;

/// How often a job says how far it is: its lines stand among those of others.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Calls `run` for each item of `work`, `jobs` at a time, each on an equal share of `threads`. Only
/// this thread reports to `progress`. When one item fails, those that run go on to their ends, and
/// no other begins.
///
/// # Errors
/// The error of the first item, in the order of `work`, that failed.
pub(super) fn at_once<T: Send>(
    work: Vec<T>,
    (jobs, threads): (usize, usize),
    progress: &dyn Progress,
    run: impl Fn(T, usize, &dyn Progress) -> Result<(), RunError> + Sync,
) -> Result<(), RunError> {
    let jobs = jobs.min(work.len()).max(1);
    let share = (threads / jobs).max(1);
    let queue = Mutex::new(work.into_iter().enumerate());
    let failed: Mutex<Vec<(usize, RunError)>> = Mutex::default();
    let stop = AtomicBool::new(false);
    let (said, told) = channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let relay = Relay { said: said.clone(), at: RefCell::default() };
            let (queue, failed, stop, run) = (&queue, &failed, &stop, &run);
            scope.spawn(move || {
                // A pool that cannot be made leaves the one of the process; results are the same.
                let pool = rayon::ThreadPoolBuilder::new().num_threads(share).build().ok();
                while !stop.load(Ordering::Relaxed) {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((index, item)) = next else { break };
                    // What a step builds stays on the thread that runs it.
                    let result = match &pool {
                        Some(pool) => {
                            let relay = Relay { said: relay.said.clone(), at: RefCell::default() };
                            pool.install(move || run(item, share, &relay))
                        }
                        None => run(item, share, &relay),
                    };
                    if let Err(error) = result {
                        stop.store(true, Ordering::Relaxed);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push((index, error));
                    }
                }
            });
        }
        drop(said);
        for said in told {
            match said {
                Said::Step(heading) => progress.step(&heading),
                Said::Line(line) => progress.message(&line),
            }
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.into_iter().min_by_key(|(index, _)| *index).map_or(Ok(()), |(_, error)| Err(error))
}

enum Said {
    Step(StepHeading),
    Line(String),
}

/// The progress of one job, as whole lines that name its variant.
struct Relay {
    said: Sender<Said>,
    at: RefCell<At>,
}

#[derive(Default)]
struct At {
    variant: String,
    what: String,
    total: Option<u64>,
    said: Option<Instant>,
}

impl Relay {
    fn line(&self, text: &str) {
        // Nobody reads any more: the run is over.
        let _ = self.said.send(Said::Line(format!("{}: {text}", self.at.borrow().variant)));
    }
}

impl Progress for Relay {
    fn step(&self, heading: &StepHeading) {
        self.at.borrow_mut().variant.clone_from(&heading.variant);
        let _ = self.said.send(Said::Step(heading.clone()));
    }

    fn start(&self, what: &str, total: Option<u64>) {
        let mut at = self.at.borrow_mut();
        (at.what, at.total, at.said) = (what.to_string(), total, Some(Instant::now()));
    }

    fn update(&self, done: u64, fields: &[(&str, String)]) {
        let line = {
            let mut at = self.at.borrow_mut();
            if at.said.is_some_and(|said| said.elapsed() < SAY_EVERY) {
                return;
            }
            at.said = Some(Instant::now());
            let of = at.total.map_or(String::new(), |total| format!("/{total}"));
            let fields = fields.iter().map(|(name, value)| format!("  {name} {value}"));
            format!("{} {done}{of}{}", at.what, fields.collect::<String>())
        };
        self.line(&line);
    }

    fn finish(&self, summary: &str) {
        let line = format!("{}: {summary}", self.at.borrow().what);
        self.line(&line);
    }

    fn message(&self, line: &str) {
        self.line(line);
    }
}
