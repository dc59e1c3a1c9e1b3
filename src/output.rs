//! What the command line prints, and the exit codes of failures.

use blt_graph::Diagnostics;
use blt_report::progress;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Whether standard error takes colours.
pub fn color() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

pub fn fail(message: &str) -> ExitCode {
    progress::line(message.trim_end());
    ExitCode::FAILURE
}

/// Prints to standard output. That nobody reads on (`| head`) is no failure; that it cannot be kept
/// (`> full/disk`) is.
pub fn say(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(std::io::Error::new(
            error.kind(),
            format!("cannot write to standard output: {error}"),
        )),
        Ok(()) => Ok(()),
    }
}

pub fn rendered(diagnostics: Diagnostics) -> String {
    diagnostics.render(color())
}

pub fn plain(error: impl std::fmt::Display) -> String {
    blt_graph::Diagnostic::error(error.to_string()).render(color())
}

pub fn interrupted(message: &str) -> ExitCode {
    progress::line(message);
    ExitCode::from(130)
}
