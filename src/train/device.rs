//! What a run runs on: the CPU or one GPU, chosen once, told in one line and recorded.

use std::sync::Arc;

use super::GpuSummary;
use crate::Error;
#[cfg(feature = "cuda")]
use crate::config::Nf4Linear;
use crate::config::{self, ByteSize, ComputeDtype, DeviceChoice, Quantization, RunFile};
use crate::device::cpu::{Cpu, Level};
#[cfg(feature = "cuda")]
use crate::device::cuda::{Cuda, CudaError};
use crate::model::Linears;
#[cfg(feature = "cuda")]
use crate::model::config::LlamaConfig;
#[cfg(feature = "cuda")]
use crate::model::cuda::{self, Gpu, GpuError, Needs};
#[cfg(feature = "cuda")]
use crate::model::llama::Kind;
#[cfg(feature = "cuda")]
use crate::model::weights::Weights;
#[cfg(feature = "cuda")]
use crate::model::{Dispatch, EngineError};
#[cfg(feature = "cuda")]
use crate::progress::{Progress, Report};

/// A device that was asked for by name cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// Putting the model on the GPU.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Gpu(#[from] GpuError),
    #[error("this build of dayrun has no GPU support: it was made without the feature `cuda`")]
    NoSupport,
}

impl DeviceError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(error) => error.hint(),
            #[cfg(feature = "cuda")]
            Self::Gpu(error) => error.hint(),
            Self::NoSupport => Some(
                "build with `--features cuda`, or use --device cpu (in the run file: train.device = \"cpu\")"
                    .into(),
            ),
        }
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub device: DeviceChoice,
    /// Most bytes of GPU memory; `None`: what is free.
    pub memory: Option<ByteSize>,
    pub compute_dtype: ComputeDtype,
    pub quantization: Quantization,
    /// CPU threads; 0: as many as may run at once.
    pub threads: usize,
    pub dispatch: config::Dispatch,
    /// To find a wrong result: the CPU runs the ops before this one.
    pub cpu_until: Option<String>,
}

impl Request {
    /// A run file's.
    pub fn of(run: &RunFile) -> Self {
        let train = &run.train;
        Self {
            dispatch: run.dispatch.clone(),
            cpu_until: train.cpu_until.clone(),
            device: train.device,
            memory: train.memory,
            compute_dtype: train.compute_dtype,
            quantization: run.model.quantization,
            threads: train.threads.count(),
        }
    }

    /// How the base's linears are to be held.
    pub fn linears(&self) -> Linears {
        match (self.quantization, self.compute_dtype) {
            (Quantization::Nf4, _) => Linears::Nf4,
            (Quantization::None, ComputeDtype::Bf16) => Linears::Bf16,
            (Quantization::None, ComputeDtype::F32) => Linears::F32,
        }
    }
}

/// What a run got. The CPU reads, tokenises and plans in any case.
#[derive(Clone)]
pub struct Device {
    pub cpu: Arc<Cpu>,
    /// The GPU that computes; `None`: the CPU does.
    #[cfg(feature = "cuda")]
    pub cuda: Option<Arc<Cuda>>,
    /// Why it is this one, where the run was to choose.
    why: Option<String>,
}

impl Device {
    /// Opens what was asked for. Only `auto` falls back to the CPU, and says why.
    ///
    /// # Errors
    /// `DAYRUN_SIMD` names no instruction set; the GPU that was named cannot be used.
    pub fn open(request: &Request) -> Result<Self, Error> {
        let cpu = Arc::new(Cpu::with_level(Level::from_env()?, request.threads));
        let mut device = Self {
            cpu,
            #[cfg(feature = "cuda")]
            cuda: None,
            why: None,
        };
        match request.device {
            DeviceChoice::Cpu => {}
            DeviceChoice::Cuda(ordinal) => device.open_gpu(ordinal, request.memory)?,
            DeviceChoice::Auto if request.compute_dtype == ComputeDtype::F32 => {
                device.why = Some("compute_dtype is \"f32\", and a GPU computes in bf16".into());
            }
            DeviceChoice::Auto => {
                let opened = device.open_gpu(0, request.memory);
                device.why = opened.err().map(|error| error.to_string());
            }
        }
        Ok(device)
    }

    #[cfg(feature = "cuda")]
    fn open_gpu(&mut self, ordinal: usize, memory: Option<ByteSize>) -> Result<(), DeviceError> {
        let bytes = memory.map(|ByteSize(bytes)| usize::try_from(bytes).unwrap_or(usize::MAX));
        self.cuda = Some(Cuda::open(ordinal, bytes)?);
        Ok(())
    }

    #[cfg(not(feature = "cuda"))]
    fn open_gpu(&mut self, _: usize, _: Option<ByteSize>) -> Result<(), DeviceError> {
        Err(DeviceError::NoSupport)
    }

    /// Looks at the model: a GPU that was chosen and not named gives way to the CPU where its
    /// kernels do not take the model's shape.
    ///
    /// # Errors
    /// [`DeviceError::Gpu`]: the GPU was named.
    #[cfg(feature = "cuda")]
    pub fn check_model(
        &mut self,
        request: &Request,
        config: &LlamaConfig,
    ) -> Result<(), DeviceError> {
        if let (true, Err(why)) = (self.is_gpu(), cuda::check_model(config)) {
            if let DeviceChoice::Cuda(_) = request.device {
                return Err(why.into());
            }
            self.why = Some(format!("{} cannot run this model: {why}", self.name()));
            self.cuda = None;
        }
        Ok(())
    }

    /// Moves a base model's weights to the GPU, if one computes.
    ///
    /// # Errors
    /// Memory; a dispatch table without a shape that the model has.
    #[cfg(feature = "cuda")]
    pub fn load(
        &self,
        request: &Request,
        weights: &Weights,
        report: Report,
    ) -> Result<Option<Gpu>, EngineError> {
        let Some(cuda) = &self.cuda else { return Ok(None) };
        report(Progress {
            stage: "moving the weights to the GPU",
            done: 0,
            total: 0,
            unit: "bytes",
        });
        let table = table(&request.dispatch, cuda.info().capability, &weights.config);
        Needs::check(cuda, weights, &table, None, Kind::Eval { tokens: 1 }, 0)?;
        let mut gpu = Gpu::new(cuda, weights, table)?;
        gpu.cpu_until = request.cpu_until.clone();
        Ok(Some(gpu))
    }

    /// Whether a GPU computes.
    pub fn is_gpu(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.cuda.is_some();
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// What it is in a run file: never `auto`.
    pub fn choice(&self) -> DeviceChoice {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = &self.cuda {
            return DeviceChoice::Cuda(cuda.info().ordinal);
        }
        DeviceChoice::Cpu
    }

    /// What computes, for records: `cuda:0 NVIDIA A100-SXM4-40GB (sm_80)` or `cpu (avx512bf16)`.
    pub fn name(&self) -> String {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = &self.cuda {
            return cuda.name();
        }
        self.cpu.name()
    }

    /// What a run records of its GPU, if it has one.
    pub fn gpu_summary(&self) -> Option<GpuSummary> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = &self.cuda {
            let info = cuda.info();
            return Some(GpuSummary {
                gpu_driver: format!("CUDA {}", version(info.driver)),
                gpu_memory_bytes: info.memory_bytes as u64,
                gpu_memory_free_bytes: info.free_bytes as u64,
                gpu_memory_limit_bytes: cuda.limit() as u64,
                gpu_memory_peak_bytes: cuda.peak() as u64,
            });
        }
        None
    }

    /// A line for a person: what computes, how much there is of it, and why it was chosen.
    pub fn line(&self) -> String {
        let mut line = format!("on {}", self.name());
        #[cfg(feature = "cuda")]
        if let Some(cuda) = &self.cuda {
            let info = cuda.info();
            let free = size(info.free_bytes);
            let of = size(info.memory_bytes);
            line.push_str(&format!(", driver for CUDA {}, ", version(info.driver)));
            line.push_str(&match cuda.limit() < info.free_bytes {
                true => format!("held to {} of {free} that are free of {of}", size(cuda.limit())),
                false => format!("{free} free of {of}"),
            });
        }
        if let Some(why) = &self.why {
            line.push_str(&format!(": {why}"));
        }
        line
    }
}

/// `39.3 GB`, `64.0 MB`.
#[cfg(feature = "cuda")]
fn size(bytes: usize) -> String {
    match bytes as f64 {
        bytes @ ..1e9 => format!("{:.1} MB", bytes * 1e-6),
        bytes => format!("{:.1} GB", bytes * 1e-9),
    }
}

/// `12.9` of a driver's 12090.
#[cfg(feature = "cuda")]
fn version(driver: i32) -> String {
    format!("{}.{}", driver / 1000, driver % 1000 / 10)
}

/// Which way the GPU takes through a 4-bit linear: the run file's table, or one for its architecture.
#[cfg(feature = "cuda")]
fn table(asked: &config::Dispatch, capability: (i32, i32), model: &LlamaConfig) -> Dispatch {
    match (asked.nf4_linear, &asked.nf4_linear_rows) {
        (Nf4Linear::Fused, _) => Dispatch::all_fused(model),
        (Nf4Linear::Scratch, _) => Dispatch::all_scratch(model),
        (Nf4Linear::Auto, None) => Dispatch::modelled(capability, model),
        (Nf4Linear::Auto, Some(linears)) => Dispatch {
            source: asked.nf4_linear_source.clone().unwrap_or_default(),
            linears: linears.clone(),
        },
    }
}
