//! The driver, cuBLAS and NVRTC, opened when a GPU is asked for.
//!
//! cudarc, under dfdx, leaves their functions to the linker, and a program that is linked to them
//! does not start on a machine that lacks one. So all of them are defined here, each as a jump to
//! the address that [`open`] found in its library: one program has both devices, runs without a
//! driver, and says in its own words what is missing. The table is the whole list: a function of
//! cudarc's that is not in it is an undefined symbol when a program is linked.

use crate::backend::device::{Device, DeviceError};
use libloading::Library;
use std::ffi::{c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("the feature `cuda` is for Linux on x86-64 and AArch64");

/// A function that cudarc calls.
struct Function {
    name: &'static str,
    address: &'static AtomicPtr<()>,
    /// Mentioned here, so that the linker takes it from this crate before it looks into any
    /// library.
    jump: unsafe extern "C" fn(),
}

/// A library and the names under which it may be found, the newest first.
struct Table {
    files: &'static [&'static str],
    functions: &'static [Function],
}

/// What an address is until its library is open. Nothing calls it: [`super::open`] opens the
/// libraries before it makes a device.
extern "C" fn not_open() {
    eprintln!("a CUDA function was called before the CUDA libraries were opened");
    std::process::abort();
}

macro_rules! tables {
    ($($(#[doc = $doc:literal])* $table:ident $files:tt: $($name:ident)*;)*) => {
        $($(#[doc = $doc])* static $table: Table = Table {
            files: &$files,
            functions: &[$(Function {
                name: stringify!($name),
                address: &$name::ADDRESS,
                jump: $name::$name,
            }),*],
        };)*
        $($(
            #[allow(non_snake_case, reason = "the function's own name")]
            mod $name {
                use super::AtomicPtr;
                pub static ADDRESS: AtomicPtr<()> = AtomicPtr::new(super::not_open as *mut ());

                /// # Safety
                /// That of the function of this name, whose arguments pass through untouched.
                // SAFETY: the only definition of this name (the libraries are not linked), and a jump to a function of the type that its
                // callers declare; x16 is the register that the AArch64 calling convention gives to such jumps.
                #[unsafe(no_mangle)]
                #[unsafe(naked)]
                pub unsafe extern "C" fn $name() {
                    #[cfg(target_arch = "x86_64")]
                    core::arch::naked_asm!("jmp qword ptr [rip + {address}]", address = sym ADDRESS);
                    #[cfg(target_arch = "aarch64")]
                    core::arch::naked_asm!(
                        "adrp x16, {address}",
                        "ldr x16, [x16, :lo12:{address}]",
                        "br x16",
                        address = sym ADDRESS
                    );
                }
            }
        )*)*
    };
}

tables! {
    /// The driver's API.
    DRIVER ["libcuda.so.1"]:
        cuCtxGetCurrent cuCtxSetCurrent cuDeviceGet cuDeviceGetAttribute cuDeviceGetCount cuDevicePrimaryCtxRelease_v2
        cuDevicePrimaryCtxRetain cuDeviceTotalMem_v2 cuEventCreate cuEventDestroy_v2 cuEventElapsedTime cuEventRecord cuGetErrorName
        cuGetErrorString cuInit cuLaunchKernel cuMemAllocAsync cuMemAlloc_v2 cuMemFreeAsync cuMemFree_v2 cuMemGetInfo_v2
        cuMemcpyDtoDAsync_v2 cuMemcpyDtoD_v2 cuMemcpyDtoHAsync_v2 cuMemcpyDtoH_v2 cuMemcpyHtoDAsync_v2 cuMemcpyHtoD_v2 cuMemsetD8Async
        cuMemsetD8_v2 cuModuleGetFunction cuModuleLoad cuModuleLoadData cuModuleUnload cuStreamCreate cuStreamDestroy_v2
        cuStreamSynchronize cuStreamWaitEvent;
    /// Matrix products.
    CUBLAS ["libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so"]:
        cublasCreate_v2 cublasDestroy_v2 cublasSetStream_v2 cublasSgemm_v2 cublasDgemm_v2 cublasSgemmStridedBatched
        cublasDgemmStridedBatched;
    /// The compiler of the kernels that are made when they are first used.
    NVRTC ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so"]:
        nvrtcCompileProgram nvrtcCreateProgram nvrtcDestroyProgram nvrtcGetPTX nvrtcGetPTXSize nvrtcGetProgramLog nvrtcGetProgramLogSize;
}

/// The open libraries.
pub struct Libraries {
    pub driver: Library,
    pub nvrtc: Library,
    /// Its functions lie behind the jumps; it must stay open.
    _cublas: Library,
}

/// Opens the libraries, once for the process, and points every jump into them.
pub fn open(device: Device) -> Result<&'static Libraries, DeviceError> {
    static OPEN: OnceLock<Result<Libraries, DeviceError>> = OnceLock::new();
    let opened = OPEN.get_or_init(|| {
        let no_driver = |library, reason| DeviceError::NoDriver { device, library, reason };
        let no_library = |library, reason| DeviceError::NoLibrary { device, library, reason };
        let (driver, _) = load(&DRIVER, no_driver)?;
        let (cublas, _) = load(&CUBLAS, no_library)?;
        Ok(Libraries { driver, _cublas: cublas, nvrtc: load_nvrtc(no_library)? })
    });
    opened.as_ref().map_err(DeviceError::clone)
}

/// NVRTC, and what it opens itself when it compiles: by name alone, so that it finds it where the
/// loader looks, or where it is open already.
fn load_nvrtc(missing: impl Fn(String, String) -> DeviceError) -> Result<Library, DeviceError> {
    let (nvrtc, path) = load(&NVRTC, missing)?;
    let beside = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    for file in
        beside.into_iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten()
    {
        if file.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so.") {
            // SAFETY: NVIDIA's library, whose initialisers may run at any time. Where it does not
            // open, NVRTC says so when it compiles.
            std::mem::forget(unsafe { Library::new(file.path()) });
        }
    }
    Ok(nvrtc)
}

/// The library under the first name that opens, its functions found, and that name.
fn load(
    table: &Table,
    missing: impl Fn(String, String) -> DeviceError,
) -> Result<(Library, PathBuf), DeviceError> {
    let mut reason = None;
    for folder in folders() {
        for file in table.files {
            let path =
                folder.as_ref().map_or_else(|| PathBuf::from(file), |folder| folder.join(file));
            // SAFETY: NVIDIA's library, whose initialisers may run at any time.
            let library = match unsafe { Library::new(&path) } {
                Ok(library) => library,
                Err(error) => {
                    // Where the loader looks something ought to be; the other folders need not
                    // exist.
                    if folder.is_none() {
                        reason.get_or_insert(error.to_string());
                    }
                    continue;
                }
            };
            for function in table.functions {
                // SAFETY: the symbol is taken as an address, and called through cudarc's
                // declaration of it.
                let address = unsafe { library.get::<*mut ()>(function.name.as_bytes()) };
                let address = address.map_err(|_| DeviceError::NoFunction {
                    library: path.display().to_string(),
                    function: function.name.to_owned(),
                })?;
                function.address.store(*address, Ordering::Release);
                std::hint::black_box(function.jump);
            }
            return Ok((library, path));
        }
    }
    Err(missing(table.files.join(" or "), reason.unwrap_or_default()))
}

/// Where a library is looked for: the toolkit that the environment names, where the loader looks
/// (None), the toolkit that this was built with, and where toolkits lie.
fn folders() -> Vec<Option<PathBuf>> {
    let libraries = |root: PathBuf| ["lib64", "lib"].map(|folder| Some(root.join(folder)));
    let named = ["CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"]
        .into_iter()
        .filter_map(std::env::var_os);
    let built_with = option_env!("CUDA_PATH").into_iter().chain(["/usr/local/cuda"]);
    let named = named.flat_map(|root| libraries(root.into()));
    named.chain([None]).chain(built_with.flat_map(|root| libraries(root.into()))).collect()
}

/// For each library, whether it opens and has every function that is called: what a build can know
/// of its calls without a GPU. NVRTC is asked to compile a kernel, too.
pub fn survey() -> Vec<(String, Result<(), DeviceError>)> {
    let missing =
        |library, reason| DeviceError::NoLibrary { device: Device::Cuda(0), library, reason };
    // They stay open: others may hold what they gave.
    let found = |table| load(table, missing).map(std::mem::forget);
    let compiles = load_nvrtc(missing).and_then(|nvrtc| {
        let compiled = compile_a_kernel(&nvrtc);
        std::mem::forget(nvrtc);
        compiled
    });
    let names = [&DRIVER, &CUBLAS, &NVRTC].map(|table| table.files.join(" or "));
    names.into_iter().zip([found(&DRIVER), found(&CUBLAS), compiles]).collect()
}

/// Compiling needs NVRTC's builtins and no GPU.
fn compile_a_kernel(nvrtc: &Library) -> Result<(), DeviceError> {
    type Program = *mut c_void;
    type Create = unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int;
    type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
    let no_function = |e: libloading::Error| DeviceError::NoFunction {
        library: "NVRTC".to_owned(),
        function: e.to_string(),
    };
    let source = c"extern \"C\" __global__ void twice(float *x) { x[threadIdx.x] *= 2.0f; }";
    let (mut program, none) = (std::ptr::null_mut(), std::ptr::null());
    // SAFETY: the functions' types in NVRTC's API; the source is a C string that outlives the
    // calls, and there are no headers or options.
    let result = unsafe {
        let create = nvrtc.get::<Create>(b"nvrtcCreateProgram").map_err(no_function)?;
        let compile = nvrtc.get::<Compile>(b"nvrtcCompileProgram").map_err(no_function)?;
        match create(&mut program, source.as_ptr(), std::ptr::null(), 0, &none, &none) {
            0 => compile(program, 0, &none),
            failed => failed,
        }
    };
    match result {
        0 => Ok(()),
        error => Err(DeviceError::Kernels {
            device: Device::Cuda(0),
            reason: format!("NVRTC compiles nothing, it answers error {error}"),
        }),
    }
}
