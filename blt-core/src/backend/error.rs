//! Why a backend did not do what it was asked.

use super::device::DeviceError;

/// An operand by its name, and its shape or length.
pub type Operand = (&'static str, Vec<usize>);

/// Why a backend did not do what it was asked. Nothing was recorded on the tape then; what an
/// optimiser step had already updated stays updated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The operands do not fit together: a mistake of the code that calls the operation.
    #[error("{operation}: {expected}; {}", listed(operands))]
    Operands { operation: &'static str, expected: &'static str, operands: Vec<Operand> },
    /// A configuration that the operation cannot compute.
    #[error("{operation}: {problem}")]
    Config { operation: &'static str, problem: String },
    /// A tensor of another backend.
    #[error("a tensor {shape:?} was made by another backend than `{backend}`")]
    Foreign { shape: [usize; 2], backend: &'static str },
    /// The device failed: out of memory, mostly.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl BackendError {
    /// What the user can do about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            BackendError::Device(error) => Some(error.help()),
            _ => None,
        }
    }
}

fn listed(operands: &[Operand]) -> String {
    let operands: Vec<_> =
        operands.iter().map(|(name, shape)| format!("{name} is {shape:?}")).collect();
    operands.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operands_are_named_with_their_shapes() {
        let error = BackendError::Operands {
            operation: "head_loss",
            expected: "one target for each row of x",
            operands: vec![("x", vec![3, 8]), ("targets", vec![2])],
        };
        assert_eq!(
            error.to_string(),
            "head_loss: one target for each row of x; x is [3, 8], targets is [2]"
        );
    }
}
