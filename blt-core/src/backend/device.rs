//! Where a model computes: the processor or a GPU, and what keeps it from doing so.

use std::fmt;
use std::str::FromStr;

/// A place to compute. Written `cpu`, `cuda` (the first GPU) or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    Cpu,
    /// An NVIDIA GPU by its number, from 0 in the driver's order.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        match name {
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            _ => {
                let number = name
                    .strip_prefix("cuda:")
                    .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
                let number = number.and_then(|digits| digits.parse().ok());
                number
                    .map(Device::Cuda)
                    .ok_or_else(|| DeviceError::Unknown { name: name.to_owned() })
            }
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// A version of CUDA as its functions count it: `1000 * major + 10 * minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion(pub u32);

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

/// Why a device cannot be used, or failed while it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("there is no device `{name}`; devices are `cpu`, `cuda` and `cuda:N`")]
    Unknown { name: String },
    #[error("this build has no GPU support, and the device is `{device}`")]
    NotInBuild { device: Device },
    #[error("`{device}` needs an NVIDIA driver, and {library} cannot be opened: {reason}")]
    NoDriver { device: Device, library: String, reason: String },
    #[error("`{device}` needs {library} of CUDA's toolkit, and it cannot be opened: {reason}")]
    NoLibrary { device: Device, library: String, reason: String },
    #[error("{library} has no function `{function}`")]
    NoFunction { library: String, function: String },
    #[error("the NVIDIA driver finds no GPU, and the device is `{device}`")]
    NoGpu { device: Device },
    #[error("there is no `{device}`: the NVIDIA driver finds {count} GPU(s), the last is `cuda:{}`", count - 1)]
    NoSuchGpu { device: Device, count: usize },
    #[error(
        "the NVIDIA driver is too old: it knows CUDA {driver}, and the kernels were made with CUDA {toolkit}"
    )]
    DriverTooOld { driver: CudaVersion, toolkit: CudaVersion },
    #[error("the kernels of this build do not run on `{device}`: {reason}")]
    Kernels { device: Device, reason: String },
    #[error("`{device}` has too little memory: {reason}")]
    OutOfMemory { device: Device, reason: String },
    #[error("`{device}` failed: {reason}")]
    Failed { device: Device, reason: String },
}

impl DeviceError {
    /// The error that the libraries' own words for it are about.
    pub(super) fn named(device: Device, reason: String) -> Self {
        let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
        if says(&["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"]) {
            DeviceError::OutOfMemory { device, reason }
        } else if says(&[
            "CUDA_ERROR_NO_BINARY_FOR_GPU",
            "CUDA_ERROR_INVALID_PTX",
            "CUDA_ERROR_INVALID_IMAGE",
            "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            "CUBLAS_STATUS_ARCH_MISMATCH",
            "CompileError",
        ]) {
            DeviceError::Kernels { device, reason }
        } else {
            DeviceError::Failed { device, reason }
        }
    }

    /// What the user can do about it.
    pub fn help(&self) -> &'static str {
        match self {
            DeviceError::Unknown { .. } => {
                "give `--device` or the pipeline's `device` one of these"
            }
            DeviceError::NotInBuild { .. } => {
                "build it with `--features cuda` (docs/gpu.md), or leave `device` out to compute on the processor"
            }
            DeviceError::NoDriver { .. } => {
                "install NVIDIA's driver (in a container: start it with the GPU passed through), or leave `device` out to compute on \
                 the processor"
            }
            DeviceError::NoLibrary { .. } => {
                "install CUDA's toolkit, or point CUDA_PATH at the one that this program was built with, or LD_LIBRARY_PATH at the \
                 library's folder"
            }
            DeviceError::NoFunction { .. } => {
                "use CUDA 11.2 or later, up to 13, and a driver to go with it"
            }
            DeviceError::NoGpu { .. } => {
                "see what `nvidia-smi` lists, and whether CUDA_VISIBLE_DEVICES hides it; or leave `device` out to compute on the \
                 processor"
            }
            DeviceError::NoSuchGpu { .. } => {
                "see what `nvidia-smi` lists, and whether CUDA_VISIBLE_DEVICES hides some of them"
            }
            DeviceError::DriverTooOld { .. } => {
                "update the driver, or build with a toolkit that is no newer than the driver"
            }
            DeviceError::Kernels { .. } => {
                "build it on this machine with `--features cuda`, or with CUDA_COMPUTE_CAP set to this GPU's compute capability"
            }
            DeviceError::OutOfMemory { .. } => {
                "lower `batch_bytes` (and raise `accumulate` by as much), lower the source's `span_bytes`, or free the GPU: `nvidia-smi` \
                 shows what else is on it"
            }
            DeviceError::Failed { .. } => {
                "run it again; if it fails again, `device: cpu` computes the same numbers, and the report of what failed helps to mend it"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (name, device) in
            [("cpu", Device::Cpu), ("cuda:0", Device::Cuda(0)), ("cuda:12", Device::Cuda(12))]
        {
            assert_eq!(name.parse(), Ok(device));
            assert_eq!(device.to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for name in
            ["", "gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "cuda:99999999999999999999", "CPU"]
        {
            assert_eq!(
                name.parse::<Device>(),
                Err(DeviceError::Unknown { name: name.to_owned() }),
                "{name}"
            );
        }
    }
}
