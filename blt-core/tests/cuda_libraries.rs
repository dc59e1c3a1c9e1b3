//! The functions that a program with `--features cuda` calls are in the CUDA libraries that it will
//! open, and NVRTC compiles a kernel.
#![cfg(feature = "cuda")]

use blt_core::backend::device::DeviceError;

/// A library that this machine lacks is told and passed over; `.ci/cuda-build` brings cuBLAS and
/// NVRTC, and a machine with a GPU has the driver.
#[test]
fn libraries_have_every_function_that_is_called() {
    for (library, found) in blt_core::backend::cuda::survey() {
        match found {
            Ok(()) => println!("{library}: it has every function that is called"),
            Err(error @ DeviceError::NoLibrary { .. }) => println!("{error}"),
            Err(error) => panic!("{error}"),
        }
    }
}
