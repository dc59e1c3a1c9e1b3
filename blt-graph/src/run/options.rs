//! [`RunOptions`]: how a pipeline is run.

use std::path::PathBuf;

use crate::diagnostic::{Diagnostics, nearest};
use crate::run::store::Store;

crate::code! {
    /// No variant has this name.
    ///
    /// `--variant` takes a name under `ablate`, or one that a grid makes, such as `stride=4,dim=64`.
    /// `blt-run check FILE` prints all of them. A pipeline without `ablate` has one variant, `base`.
    pub(crate) UNKNOWN_VARIANT = "BLT0507"
}

/// What to do with the work that an earlier run left unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resume {
    /// Make a new run directory. Stopped steps continue.
    #[default]
    Steps,
    /// As `Steps`, but continue in the directory of this pipeline's latest run, if that run did not
    /// finish.
    Run,
    /// Make a new run directory. Remove the files of stopped steps.
    Fresh,
}

/// How a pipeline is run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The folder of all runs.
    pub runs_dir: PathBuf,
    /// The folder of the store; `<runs_dir>/.store` if `None`.
    pub store_dir: Option<PathBuf>,
    /// Identifies the program: its version, and in a development tree a hash of the sources. It is
    /// part of every key, and so are the names and versions of the crates of nodes and steps.
    pub build: String,
    /// The number type of the computation, for keys.
    pub dtype: String,
    /// The processor features that may change a result's bits, for keys: [`cpu_features`].
    pub cpu_features: String,
    /// The number of threads that steps may use. Not part of keys, since results do not depend on
    /// it.
    pub threads: usize,
    /// How many variants run at once, with the threads divided among them. Not part of keys either.
    pub jobs: usize,
    /// The variants to run; all if empty. All are checked in any case.
    pub variants: Vec<String>,
    /// What to do with unfinished work.
    pub resume: Resume,
    /// Look at every value as it is made, for the first that is not finite. Not part of keys: it
    /// takes time, and changes no number.
    pub detect_anomaly: bool,
}

impl RunOptions {
    /// Runs in `runs/`, on all processors. `build` identifies the program.
    pub fn new(build: impl Into<String>) -> Self {
        RunOptions {
            runs_dir: PathBuf::from("runs"),
            store_dir: None,
            build: build.into(),
            dtype: "f32".to_string(),
            cpu_features: cpu_features(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            jobs: 1,
            variants: Vec::new(),
            resume: Resume::Steps,
            detect_anomaly: false,
        }
    }

    /// The program and its arithmetic: the build, the number type, the processor's features.
    pub fn program(&self) -> String {
        format!("{} {} {}", self.build, self.dtype, self.cpu_features)
    }

    /// The store that a run with these options uses.
    pub fn store(&self) -> Store {
        Store::new(self.store_dir.clone().unwrap_or_else(|| self.runs_dir.join(".store")))
    }
}

/// The architecture of this processor and the vector extensions by which numeric libraries choose
/// their code, and `BLT_SIMD`, by which a user chooses lesser ones.
pub fn cpu_features() -> String {
    let mut features = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    {
        let found = [
            ("avx", std::arch::is_x86_feature_detected!("avx")),
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ];
        features.extend(found.iter().filter(|(_, has)| *has).map(|(name, _)| *name));
    }
    let chosen = std::env::var("BLT_SIMD").map(|level| format!("+BLT_SIMD={level}"));
    features.join("+") + &chosen.unwrap_or_default()
}

/// The elements of `all` whose variants are among `names`; all of them if there are no names.
/// `name_of` returns an element's variant.
///
/// # Errors
/// If no variant has one of the names.
pub fn choose_variants<T>(
    mut all: Vec<T>,
    names: &[String],
    name_of: impl Fn(&T) -> &str,
) -> Result<Vec<T>, Diagnostics> {
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|one| name_of(one) != **name)) {
        let mut known: Vec<&str> = all.iter().map(&name_of).collect();
        known.dedup();
        let message =
            format!("no variant is called `{unknown}`; there are `{}`", known.join("`, `"));
        let meant = nearest(unknown, known).map(|name| format!("did you mean `{name}`?"));
        return Err(UNKNOWN_VARIANT.error(message).help(meant).into());
    }
    all.retain(|one| names.is_empty() || names.iter().any(|name| name == name_of(one)));
    Ok(all)
}
