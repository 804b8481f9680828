//! What can go wrong with a model on a GPU.

use super::needs::Shortage;
use crate::device::cuda::CudaError;
use crate::ops::LaunchError;

/// A model could not be put on a GPU or run there.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    #[error(transparent)]
    Cuda(#[from] CudaError),
    #[error("head_dim is {got}: the GPU's attention kernels take 64 and 128")]
    HeadDim { got: usize },
    #[error("{what} is {got}: the GPU's kernels take multiples of 8")]
    Width { what: &'static str, got: usize },
    #[error(
        "activations are f32: the GPU's kernels compute in bf16 (sums, statistics and loss in f32)"
    )]
    Dtype,
    #[error(
        "the dispatch table has no line for a linear of {out_features} x {in_features}, which this model has"
    )]
    Dispatch { out_features: usize, in_features: usize },
    #[error("the KV cache lies in host memory, the model on a GPU")]
    HostCache,
    #[error("train.cpu_until: no op is called `{name}`; near are {}", .near.join(", "))]
    UnknownOp { name: String, near: Vec<String> },
    #[error(transparent)]
    TooLittleMemory(Box<Shortage>),
    /// The device refused to start an op.
    #[error("running {op} on the GPU: {source}")]
    Op { op: String, source: LaunchError },
    /// The device failed while it worked.
    #[error("the GPU stopped at {op}: {source}")]
    Stopped { op: String, source: CudaError },
}

impl GpuError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            GpuError::Cuda(error) => error.hint(),
            GpuError::HeadDim { .. } | GpuError::Width { .. } => {
                Some("--device cpu (in the run file: train.device = \"cpu\") runs this model".into())
            }
            GpuError::Dtype => Some(
                "train.compute_dtype = \"bf16\"; or for f32 --device cpu (in the run file: train.device = \
                 \"cpu\")"
                    .into(),
            ),
            GpuError::Dispatch { .. } => {
                Some("leave the table out of the run file: one is made for the GPU at hand".into())
            }
            GpuError::Op { source: LaunchError::Cuda(error), .. } => error.hint(),
            GpuError::TooLittleMemory(shortage) => Some(shortage.hint()),
            GpuError::Stopped { .. } => Some(
                "the run can be repeated from its run file; if it stops there again, please report it"
                    .into(),
            ),
            GpuError::UnknownOp { .. } => Some(
                "`dayrun -vv train` lists all ops of a step, in the order in which they run".into(),
            ),
            GpuError::HostCache | GpuError::Op { .. } => None,
        }
    }
}
