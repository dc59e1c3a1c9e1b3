//! How a run reports its progress: [`Progress`].

/// Receives the progress of a run. The command line draws bars from it; [`Silent`] ignores it.
pub trait Progress {
    /// The runner begins a step of a variant, or takes its result from the store.
    fn step(&self, heading: &StepHeading);
    /// A piece of work called `what` begins. `total` is its size in units (training steps, bytes,
    /// documents), or `None` if that is unknown.
    fn start(&self, what: &str, total: Option<u64>);
    /// `done` units have been done since [`start`](Progress::start). `fields` are names and values
    /// to show, in this order: `[("bpb", "2.314")]`.
    fn update(&self, done: u64, fields: &[(&str, String)]);
    /// The work that [`start`](Progress::start) began has ended.
    fn finish(&self, summary: &str);
    /// A line that stays on the screen.
    fn message(&self, line: &str);
}

/// A step of a variant, as the runner announces it to [`Progress::step`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepHeading {
    /// The variant's name.
    pub variant: String,
    /// The pipeline's seed.
    pub seed: u64,
    /// The step's position among the steps of all variants, from 0.
    pub index: usize,
    /// The number of steps of all variants together.
    pub total: usize,
    /// [`Step::NAME`](crate::Step::NAME).
    pub step: String,
    /// The step's goals.
    pub goals: Vec<String>,
    /// Whether the result of an earlier run is used again.
    pub reused: bool,
}

/// A [`Progress`] that shows nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &StepHeading) {}
    fn start(&self, _: &str, _: Option<u64>) {}
    fn update(&self, _: u64, _: &[(&str, String)]) {}
    fn finish(&self, _: &str) {}
    fn message(&self, _: &str) {}
}
