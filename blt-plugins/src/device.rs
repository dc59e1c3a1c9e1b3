//! The backend that a step computes on.

use blt_core::backend::device::{Device, DeviceError};
use blt_core::backend::dfdx::Dfdx;
use blt_core::backend::fused::Fused;
use blt_core::backend::gpu;
use blt_core::backend::{Backend, BackendError};
use blt_graph::{ComputePath, Diagnostics, PipelineSpec, StepCx, StepError};
use std::error::Error;
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
            let (what, help) = no_fused(gpu);
            Err(StepError::other(what).help(help))
        }
    }
}

blt_graph::code! {
    /// There is no such device, or the compute path does not exist on it.
    ///
    /// `device` is `cpu`, `cuda` (the first GPU) or `cuda:N`. Fused operations are the processor's
    /// own: on a GPU leave `path` out, or give `path: reference`.
    pub DEVICE = "BLT0602"
}

/// What is wrong with the pipeline's `device` and `path`, as far as the machine need not be asked.
pub fn check_device(spec: &PipelineSpec) -> Result<(), Diagnostics> {
    let Some(name) = &spec.device else { return Ok(()) };
    let device: Device = name.parse().map_err(|error: DeviceError| {
        spec.diagnose(&DEVICE, &["device"], error.to_string(), Some(error.help().to_owned()))
    })?;
    match (spec.compute_path, device) {
        (Some(ComputePath::Fused), gpu @ Device::Cuda(_)) => {
            let (what, help) = no_fused(gpu);
            Err(spec.diagnose(&DEVICE, &["path"], what, Some(help.to_owned())))
        }
        _ => Ok(()),
    }
}

fn no_fused(gpu: Device) -> (String, &'static str) {
    (
        format!("fused operations are the processor's own, and the device is `{gpu}`"),
        "leave `path` out, or give `path: reference`",
    )
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
