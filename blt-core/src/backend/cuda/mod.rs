//! NVIDIA GPUs: opening one, and reading its errors.
//!
//! What a GPU computes is [`crate::backend::dfdx`] over dfdx's `Cuda`. dfdx's kernels are compiled when
//! it is built, for one compute capability; it compiles a few more with NVRTC when they are first
//! used, from headers in the folder where it was built. Everything runs on one stream
//! of the device, in order, and only reading a result waits for it.
//!
//! A panic of dfdx with an error of the device stays inside this backend ([`caught`]).

mod library;

pub use library::survey;

use crate::backend::device::{CudaVersion, Device, DeviceError};
use dfdx::prelude::{Axis, Cuda, Synchronize, TensorFromVec, TryAdd, TryConcatAlong, TryMatMul};
use libloading::Library;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;

// Results of the driver's functions.
const CUDA_SUCCESS: u32 = 0;
const CUDA_ERROR_STUB_LIBRARY: u32 = 34;
const CUDA_ERROR_NO_DEVICE: u32 = 100;

thread_local! {
    /// The GPUs that are open. dfdx's handle is of one thread. They stay open until the process ends: closing one that has failed panics.
    static OPEN: RefCell<BTreeMap<usize, ManuallyDrop<Cuda>>> = const { RefCell::new(BTreeMap::new()) };
    /// This thread is inside [`caught`].
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The GPU of a number. A thread opens it once, which takes a part of a second and runs a kernel of
/// each kind.
///
/// # Errors
/// What keeps it from computing.
pub fn open(index: usize) -> Result<Cuda, DeviceError> {
    if let Some(gpu) = OPEN.with_borrow(|open| open.get(&index).map(|gpu| Cuda::clone(gpu))) {
        return Ok(gpu);
    }
    let device = Device::Cuda(index);
    let libraries = library::open(device)?;
    let toolkit = nvrtc_version(device, &libraries.nvrtc)?;
    let driver = driver_version(device, &libraries.driver)?;
    let too_old = DeviceError::DriverTooOld { driver, toolkit };
    if driver < toolkit {
        return Err(too_old);
    }
    let count = gpu_count(device, &libraries.driver)?;
    match count {
        0 => return Err(DeviceError::NoGpu { device }),
        _ if index >= count => return Err(DeviceError::NoSuchGpu { device, count }),
        _ => {}
    }
    quiet_panics();
    let gpu = caught(|| {
        let gpu = ManuallyDrop::new(Cuda::try_build(index, 0).map_err(|e| e.to_string())?);
        probe(&gpu)?;
        Ok(ManuallyDrop::into_inner(gpu))
    });
    let gpu =
        gpu.map_err(|reason| match reason.contains("CUDA_ERROR_UNSUPPORTED_PTX_VERSION") {
            true => too_old,
            false => DeviceError::named(device, reason),
        })?;
    OPEN.with_borrow_mut(|open| open.insert(index, ManuallyDrop::new(gpu.clone())));
    Ok(gpu)
}

/// Bytes of the GPU's memory that are free, and in all; what the driver keeps for later allocations
/// counts as taken.
///
/// # Errors
/// If the GPU cannot be opened, or does not answer.
pub fn memory(index: usize) -> Result<(usize, usize), DeviceError> {
    open(index)?
        .try_synchronize()
        .map_err(|e| DeviceError::named(Device::Cuda(index), e.to_string()))?;
    let device = Device::Cuda(index);
    let libraries = library::open(device)?;
    let (mut free, mut total) = (0, 0);
    // SAFETY: the function's type in CUDA's driver API; the GPU's context is current on this thread
    // since it synchronised.
    let result = unsafe {
        let function = function::<unsafe extern "C" fn(*mut usize, *mut usize) -> u32>(
            &libraries.driver,
            "cuMemGetInfo_v2",
        )?;
        function(&mut free, &mut total)
    };
    check(device, "cuMemGetInfo", result)?;
    Ok((free, total))
}

/// One operation of each kind of kernel: of cuBLAS, of dfdx's own, and of those that NVRTC
/// compiles. Their results are for tests to judge.
fn probe(gpu: &Cuda) -> Result<(), String> {
    let said = |e: dfdx::tensor::CudaError| e.to_string();
    let x = gpu.try_tensor_from_vec(vec![1f32, 2.0, 3.0, 4.0], (2usize, 2usize)).map_err(said)?;
    let product = x.clone().try_matmul(x.clone()).map_err(said)?;
    let sum = product.try_add(x.clone()).map_err(said)?;
    (sum, x).try_concat_along(Axis::<0>).map_err(said)?;
    gpu.try_synchronize().map_err(said)
}

/// # Safety
/// `F` must be the function's type.
unsafe fn function<'a, F>(
    library: &'a Library,
    name: &str,
) -> Result<libloading::Symbol<'a, F>, DeviceError> {
    // SAFETY: as the caller promises.
    let found = unsafe { library.get::<F>(name.as_bytes()) };
    found.map_err(|e| DeviceError::NoFunction { library: e.to_string(), function: name.to_owned() })
}

fn nvrtc_version(device: Device, nvrtc: &Library) -> Result<CudaVersion, DeviceError> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the function's type in NVRTC's API.
    let result = unsafe {
        function::<unsafe extern "C" fn(*mut i32, *mut i32) -> u32>(nvrtc, "nvrtcVersion")?(
            &mut major, &mut minor,
        )
    };
    check(device, "nvrtcVersion", result)?;
    Ok(CudaVersion(1000 * major.max(0) as u32 + 10 * minor.max(0) as u32))
}

fn driver_version(device: Device, driver: &Library) -> Result<CudaVersion, DeviceError> {
    let mut version = 0;
    // SAFETY: the function's type in CUDA's driver API; it may be called before the driver is
    // initialised.
    let result = unsafe {
        function::<unsafe extern "C" fn(*mut i32) -> u32>(driver, "cuDriverGetVersion")?(
            &mut version,
        )
    };
    check(device, "cuDriverGetVersion", result)?;
    Ok(CudaVersion(version.max(0) as u32))
}

fn gpu_count(device: Device, driver: &Library) -> Result<usize, DeviceError> {
    let mut count = 0;
    // SAFETY: the functions' types in CUDA's driver API.
    unsafe {
        let initialised = function::<unsafe extern "C" fn(u32) -> u32>(driver, "cuInit")?(0);
        check(device, "cuInit", initialised)?;
        let counted = function::<unsafe extern "C" fn(*mut i32) -> u32>(
            driver,
            "cuDeviceGetCount",
        )?(&mut count);
        check(device, "cuDeviceGetCount", counted)?;
    }
    Ok(count.max(0) as usize)
}

fn check(device: Device, function: &str, result: u32) -> Result<(), DeviceError> {
    match result {
        CUDA_SUCCESS => Ok(()),
        CUDA_ERROR_NO_DEVICE => Err(DeviceError::NoGpu { device }),
        CUDA_ERROR_STUB_LIBRARY => Err(DeviceError::NoDriver {
            device,
            library: "libcuda.so.1".to_owned(),
            reason: "it is the toolkit's stub, which only stands in for the driver's when a program is linked"
                .to_owned(),
        }),
        other => Err(DeviceError::Failed { device, reason: format!("{function} answers CUDA error {other}") }),
    }
}

/// What a panic says.
fn text(payload: &dyn Any) -> Option<&str> {
    payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
}

/// The names that errors of the libraries begin with, as cudarc prints them.
fn of_device(text: &str) -> bool {
    ["CUDA_ERROR_", "CUBLAS_STATUS_", "NVRTC_ERROR_"].iter().any(|name| text.contains(name))
}

/// Runs something of dfdx on a GPU. Almost all of dfdx returns its errors, and a few places panic
/// with them: copying a gradient (out of memory), copying to the host, compiling a kernel at its
/// first use. Those panics print nothing and become errors here; any other goes on.
pub fn caught<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let outer = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(outer);
    result.unwrap_or_else(|panic| match text(&*panic).filter(|text| of_device(text)) {
        // `called `Result::unwrap()` on an `Err` value: DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out
        // of memory")`
        Some(text) => Err(text.rsplit_once("value: ").map_or(text, |(_, error)| error).to_owned()),
        None => resume_unwind(panic),
    })
}

/// From now on a panic with an error of the device prints nothing inside [`caught`].
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !(QUIET.get() && text(info.payload()).is_some_and(of_device)) {
                previous(info);
            }
        }));
    });
}
