//! What the command line prints, and the exit codes of failures.

use blt_graph::StepError;
use blt_graph::run::RunError;
use blt_report::progress;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Whether standard error takes colours.
pub fn color() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Why a command did not do what it was asked to.
pub struct Failure(StepError);

impl<E: Into<StepError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(error.into())
    }
}

impl Failure {
    pub fn other(message: impl Into<String>) -> Self {
        Failure(StepError::other(message.into()))
    }

    fn of_run(&self) -> Option<&RunError> {
        match &self.0 {
            StepError::Failed { error, .. } => error.downcast_ref(),
            _ => None,
        }
    }

    /// Whether the user stopped the run.
    pub fn interrupted(&self) -> bool {
        self.of_run().is_some_and(RunError::interrupted)
    }

    /// What a user reads, for standard error.
    pub fn render(&self) -> String {
        self.of_run().map_or_else(|| self.0.render(color()), |error| error.render(color()))
    }

    /// Prints the failure to standard error; 130 if the user stopped the run, else 1.
    pub fn report(&self) -> ExitCode {
        progress::line(self.render().trim_end());
        if self.interrupted() { ExitCode::from(130) } else { ExitCode::FAILURE }
    }
}

/// Prints a line to standard output. That nobody reads on (`| head`) is no failure; that it cannot
/// be kept (`> full/disk`) is.
pub fn say(text: &str) -> std::io::Result<()> {
    show(&format!("{text}\n")).map(drop)
}

/// Prints text to standard output at once; whether somebody reads on.
pub fn show(text: &str) -> std::io::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(std::io::Error::new(
            error.kind(),
            format!("cannot write to standard output: {error}"),
        )),
        Ok(()) => Ok(true),
    }
}
