//! The backend of a GPU, where this build has one.

use super::Backend;
use super::device::{Device, DeviceError};
use std::rc::Rc;

/// A backend of the GPU `cuda:index`: the reference operations, with parameters, gradients and
/// moments on the device.
///
/// # Errors
/// The first of what [`DeviceError`] lists that keeps it from computing, found before anything is
/// computed.
#[cfg(not(feature = "cuda"))]
pub fn open(index: usize) -> Result<Rc<dyn Backend>, DeviceError> {
    Err(DeviceError::NotInBuild { device: Device::Cuda(index) })
}

/// A backend of the GPU `cuda:index`: the reference operations, with parameters, gradients and
/// moments on the device.
///
/// # Errors
/// The first of what [`DeviceError`] lists that keeps it from computing, found before anything is
/// computed.
#[cfg(feature = "cuda")]
pub fn open(index: usize) -> Result<Rc<dyn Backend>, DeviceError> {
    let gpu = super::cuda::open(index)?;
    Ok(Rc::new(super::dfdx::Dfdx::<f32, _>::resident(gpu, Device::Cuda(index))))
}
