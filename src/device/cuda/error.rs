//! What can go wrong with a GPU, and what to do about it.

use cudarc::driver::DriverError;

/// A GPU could not be opened or did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    #[error(
        "no GPU here: the NVIDIA driver's library (libcuda.so, libcuda.so.1) is not on this machine's \
         library path"
    )]
    NoDriver,
    #[error("no GPU here: the NVIDIA driver is there but sees no device ({reason})")]
    NoDevice { reason: String },
    #[error("there is no GPU {ordinal}: this machine has {count}, counted from 0")]
    NoSuchDevice { ordinal: usize, count: usize },
    #[error(
        "the NVIDIA driver is too old: it speaks CUDA {}.{}, the kernels need {}.{}",
        found / 1000, found % 1000 / 10, needed / 1000, needed % 1000 / 10
    )]
    DriverTooOld { found: i32, needed: i32 },
    #[error(
        "GPU {ordinal} ({name}) is too old: compute capability {}.{} has no bf16 tensor cores, 8.0 or \
         higher is needed", capability.0, capability.1
    )]
    GpuTooOld { ordinal: usize, name: String, capability: (i32, i32) },
    #[error(
        "GPU memory: {wanted} bytes were asked for, {used} of {limit} are in use by this run already"
    )]
    OutOfMemory { wanted: usize, used: usize, limit: usize },
    #[error("{doing}: the driver says {code}: {text}")]
    Driver { doing: &'static str, code: Box<str>, text: Box<str> },
    #[error(
        "launching {kernel} with {grid:?} blocks of {block} threads and {shared_bytes} bytes of shared \
         memory: the driver says {code}: {text}"
    )]
    Launch {
        kernel: &'static str,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        code: Box<str>,
        text: Box<str>,
    },
    #[error("reading back {what} of {wanted} elements: there are {got}")]
    Length { what: &'static str, wanted: usize, got: usize },
}

impl CudaError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            CudaError::NoDriver => {
                "install the NVIDIA driver (nothing else is needed), or use --device cpu (in the run file: \
                 train.device = \"cpu\")"
            }
            CudaError::NoDevice { .. } => {
                "`nvidia-smi` shows what the driver sees; in a container, pass the GPU through; or use \
                 --device cpu (in the run file: train.device = \"cpu\")"
            }
            CudaError::NoSuchDevice { .. } => {
                "`nvidia-smi -L` lists them; --device cuda:0 (in the run file: train.device = \"cuda:0\") \
                 is the first"
            }
            CudaError::DriverTooOld { .. } => {
                "driver 530 or newer is needed; or use --device cpu (in the run file: train.device = \"cpu\")"
            }
            CudaError::GpuTooOld { .. } => {
                "Ampere (A100, RTX 30) or newer is needed; or use --device cpu (in the run file: \
                 train.device = \"cpu\")"
            }
            CudaError::OutOfMemory { .. } => {
                "lower train.micro_batch_tokens or lora.r, or raise train.memory"
            }
            CudaError::Driver { code, .. } | CudaError::Launch { code, .. } => match &**code {
                "CUDA_ERROR_OUT_OF_MEMORY" => {
                    "lower train.micro_batch_tokens or lora.r, or lower train.memory to what is free"
                }
                "CUDA_ERROR_JIT_COMPILER_NOT_FOUND" => {
                    "the driver's PTX compiler (libnvidia-ptxjitcompiler) is missing: in a container, \
                     NVIDIA_DRIVER_CAPABILITIES must include compute"
                }
                _ => return None,
            },
            _ => return None,
        };
        Some(text.into())
    }

    /// The driver's error code and text, while `doing` something.
    pub(super) fn driver(doing: &'static str) -> impl Fn(DriverError) -> CudaError {
        move |error| {
            let (code, text) = describe(error);
            CudaError::Driver { doing, code, text }
        }
    }
}

/// The name and the text of a driver's error.
pub(super) fn describe(error: DriverError) -> (Box<str>, Box<str>) {
    let text = |found: Result<&std::ffi::CStr, DriverError>| {
        found.map_or_else(|_| format!("{:?}", error.0).into(), |text| text.to_string_lossy().into())
    };
    (text(error.error_name()), text(error.error_string()))
}
