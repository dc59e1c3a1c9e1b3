//! The backend that a step computes on.

use blt_core::backend::Backend;
use blt_core::backend::device::{Device, DeviceError};
use blt_core::backend::dfdx::Dfdx;
use blt_core::backend::fused::Fused;
use blt_core::backend::gpu;
use blt_graph::{ComputePath, StepCx, StepError};
use std::any::Any;
use std::rc::Rc;

/// The backend for the pipeline's compute path (`path`) and `device`.
///
/// # Errors
/// If the device does not exist, or has no fused operations.
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

/// The error of a device that ended a step as a panic, for
/// [`Runner::failure`](blt_graph::run::Runner::failure).
pub fn device_failure(panic: &(dyn Any + Send)) -> Option<StepError> {
    gpu::failure(panic).map(device_error)
}
