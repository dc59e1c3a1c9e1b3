//! What nodes and steps return when they fail: [`NodeError`] and [`StepError`].

use std::error::Error as StdError;
use std::fmt;

use crate::code::Code;
use crate::diagnostic::{Diagnostic, Diagnostics};

/// An error of a node or a step, with the parameter or input that is at fault.
///
/// `?` converts any other error into it, as into a boxed error, so it cannot implement
/// [`std::error::Error`] itself. The graph turns it into a [`Diagnostic`] that points at the
/// node's line.
#[derive(Debug)]
pub struct NodeError {
    pub(crate) at: At,
    pub(crate) error: Box<dyn StdError + Send + Sync>,
    pub(crate) help: Option<String>,
    pub(crate) code: Option<&'static Code>,
}

/// The part of a node that a [`NodeError`] is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum At {
    Param(String),
    Input(String),
    Node,
}

impl NodeError {
    /// The parameter `name` is wrong. A dotted `name` reaches into the parameter: `split.valid`.
    pub fn param(
        name: impl Into<String>,
        error: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        NodeError { at: At::Param(name.into()), error: error.into(), help: None, code: None }
    }

    /// The input `port` does not fit, as far as it is known before data is read.
    pub fn input(
        port: impl Into<String>,
        error: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        NodeError { at: At::Input(port.into()), error: error.into(), help: None, code: None }
    }

    /// An error about the node as a whole: a message, or an error (boxed ones too).
    pub fn other(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        NodeError { at: At::Node, error: error.into(), help: None, code: None }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Gives the error a kind of its own, in place of that of all errors about a parameter, an input
    /// or a node.
    #[must_use]
    pub fn code(mut self, code: &'static Code) -> Self {
        self.code = Some(code);
        self
    }

    /// The message and its causes, on one line.
    pub fn message(&self) -> String {
        chain(self.error.as_ref())
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Param(name) => write!(f, "parameter `{name}`: ")?,
            At::Input(port) => write!(f, "input `{port}`: ")?,
            At::Node => {}
        }
        f.write_str(&self.message())?;
        if let Some(help) = &self.help {
            write!(f, " (help: {help})")?;
        }
        Ok(())
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for NodeError {
    fn from(error: E) -> Self {
        NodeError::other(error)
    }
}

/// Why a step did not finish.
///
/// `?` converts any other error into it, so it cannot implement [`std::error::Error`] itself.
#[derive(Debug)]
pub enum StepError {
    /// The user stopped it; its state is saved and a later run continues it.
    Interrupted,
    /// The pipeline is at fault.
    Document(Diagnostics),
    /// Any other error.
    Failed {
        /// The error.
        error: Box<dyn StdError + Send + Sync>,
        /// What the user can do.
        help: Option<String>,
    },
}

impl StepError {
    /// A message, or an error (boxed ones too). [`Diagnostics`] become
    /// [`Document`](StepError::Document).
    pub fn other(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        match error.into().downcast::<Diagnostics>() {
            Ok(diagnostics) => StepError::Document(*diagnostics),
            Err(error) => StepError::Failed { error, help: None },
        }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn help(self, text: impl Into<String>) -> Self {
        match self {
            StepError::Failed { error, .. } => StepError::Failed { error, help: Some(text.into()) },
            other => other,
        }
    }

    /// The error as the user reads it, in `rustc`'s form; in colour if `color`.
    pub fn render(&self, color: bool) -> String {
        match self {
            StepError::Interrupted => self.to_string(),
            StepError::Document(diagnostics) => diagnostics.render(color),
            StepError::Failed { error, help } => {
                Diagnostic::error(chain(error.as_ref())).help(help.as_deref()).render(color)
            }
        }
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepError::Interrupted => f.write_str("interrupted; run it again to continue"),
            StepError::Document(diagnostics) => diagnostics.fmt(f),
            StepError::Failed { error, help } => {
                f.write_str(&chain(error.as_ref()))?;
                match help {
                    Some(help) => write!(f, " (help: {help})"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for StepError {
    fn from(error: E) -> Self {
        StepError::other(error)
    }
}

impl From<NodeError> for StepError {
    fn from(mut error: NodeError) -> Self {
        let help = error.help.take();
        StepError::Failed { error: error.to_string().into(), help }
    }
}

/// The message of `error` and of its causes, joined by `: `. A cause that the message quotes
/// already is left out.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = error.source();
    }
    message
}
