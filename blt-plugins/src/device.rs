//! The backend that a step computes on.

use blt_core::backend::device::{Device, DeviceError};
use blt_core::backend::dfdx::Dfdx;
use blt_core::backend::fused::Fused;
use blt_core::backend::gpu;
use blt_core::backend::{Backend, BackendError};
use blt_graph::{ComputePath, StepCx, StepError};
use std::error::Error;
use std::rc::Rc;

/// The backend that the pipeline's `path` and `device` name.
///
/// # Errors
/// If there is no such device, or it has no fused operations.
pub fn backend(cx: &StepCx) -> Result<Rc<dyn Backend>, StepError> {
    match (cx.compute_path(), cx.device().parse().map_err(device_error)?) {
        (ComputePath::Fused, Device::Cpu) => Ok(Rc::new(Fused::new())),
        (ComputePath::Reference, Device::Cpu) => Ok(Rc::new(Dfdx::<f32, _>::cpu())),
        (ComputePath::Reference, Device::Cuda(index)) => gpu::open(index).map_err(device_error),
        (ComputePath::Fused, gpu) => {
            let what =
                format!("fused operations are the processor's own, and the device is `{gpu}`");
            Err(StepError::other(what).help("leave `path` out, or give `path: reference`"))
        }
    }
}

fn device_error(error: DeviceError) -> StepError {
    let help = error.help();
    StepError::other(error).help(help)
}

/// An error of the backend, with what the user can do about it.
pub fn failed(error: BackendError) -> StepError {
    match error.help() {
        Some(help) => StepError::other(error).help(help),
        None => StepError::other(error),
    }
}

/// What the user can do about an error, if it is the backend's.
pub fn help(error: &(dyn Error + 'static)) -> Option<String> {
    error.downcast_ref::<BackendError>()?.help().map(str::to_owned)
}
