//! An adapter on the device: its working copy, and when it is trained its f32 parameters, their gradients
//! and the optimizer's moments.

use std::sync::Arc;

use half::bf16;

use crate::adapter::Adapter;
use crate::device::cuda::{Buf, Cuda};
use crate::model::EngineError;
use crate::model::config::LlamaConfig;
use crate::model::cuda::GpuError;
use crate::model::lora_layout::{AdapterCopy, AdapterLayout};

/// An adapter that ops multiply with.
pub struct GpuAdapter {
    pub layout: AdapterLayout,
    pub copy: Buf<bf16>,
    pub training: Option<Training>,
}

/// What an update reads and writes, each laid out as the adapter's parameters.
pub struct Training {
    pub params: Buf<f32>,
    pub grads: Buf<f32>,
    pub m: Buf<f32>,
    pub v: Buf<f32>,
}

impl GpuAdapter {
    /// Uploads it.
    pub fn new(
        cuda: &Arc<Cuda>,
        config: &LlamaConfig,
        adapter: &Adapter,
        train: bool,
    ) -> Result<Self, EngineError> {
        let host = AdapterCopy::<bf16>::new(config, adapter)?;
        let copy = cuda.upload(host.as_slice()).map_err(GpuError::from)?;
        let training = train.then(|| Training::new(cuda, &adapter.params)).transpose()?;
        Ok(Self { layout: host.layout, copy, training })
    }
}

impl Training {
    fn new(cuda: &Arc<Cuda>, params: &[f32]) -> Result<Self, GpuError> {
        let zeros = || {
            let mut buf = cuda.alloc(params.len())?;
            cuda.fill(&mut buf.view_mut(), 0)?;
            Ok::<_, GpuError>(buf)
        };
        Ok(Self { params: cuda.upload(params)?, grads: zeros()?, m: zeros()?, v: zeros()? })
    }
}
