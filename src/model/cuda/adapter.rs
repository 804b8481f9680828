//! An adapter on the device: its working copy, and when it is trained its f32 parameters, their gradients
//! and the optimizer's moments.

use std::sync::Arc;

use half::bf16;

use crate::adapter::Adapter;
use crate::device::cpu::Cpu;
use crate::device::cuda::{Buf, Cuda};
use crate::model::EngineError;
use crate::model::config::LlamaConfig;
use crate::model::cuda::GpuError;
use crate::model::engine::Update;
use crate::model::lora_layout::{AdapterCopy, AdapterLayout, Placed};
use crate::ops::{LaunchError, adamw, reduce};

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
    m: Buf<f32>,
    v: Buf<f32>,
    /// Where the parameters go in the working copy.
    segments: adamw::cuda::Segments,
    /// Scratch and result of the sum of squares, and of the search for what is not finite.
    sums: Buf<f64>,
    sum: Buf<f64>,
    places: Buf<u32>,
    place: Buf<u32>,
}

impl GpuAdapter {
    /// Uploads it.
    pub fn new(
        cpu: &Cpu,
        cuda: &Arc<Cuda>,
        config: &LlamaConfig,
        adapter: &Adapter,
        train: bool,
    ) -> Result<Self, EngineError> {
        let host = AdapterCopy::<bf16>::new(cpu, config, adapter)?;
        let copy = cuda.upload(host.as_slice()).map_err(GpuError::from)?;
        let layout = host.layout;
        let training = train.then(|| Training::new(cuda, &layout, &adapter.params)).transpose()?;
        Ok(Self { layout, copy, training })
    }

    /// Clips and applies the accumulated gradients, then renews the working copy. Nothing changes when a gradient
    /// is not finite.
    pub fn update(
        &mut self,
        cuda: &Cuda,
        hyper: &adamw::Hyper,
        max_grad_norm: f64,
    ) -> Result<Update, LaunchError> {
        let Some(training) = &mut self.training else {
            return Ok(Update { grad_norm: 0.0, non_finite: None });
        };
        let Training { params, grads, m, v, segments, sums, sum, places, place } = training;
        let grads = grads.view();
        reduce::cuda::first_non_finite(cuda, grads, &mut places.view_mut(), &mut place.view_mut())?;
        reduce::cuda::sum_of_squares(cuda, grads, &mut sums.view_mut(), &mut sum.view_mut())?;
        let (mut params, mut m, mut v) = (params.view_mut(), m.view_mut(), v.view_mut());
        adamw::cuda::step(
            cuda,
            hyper,
            max_grad_norm,
            sum.view(),
            &mut params,
            grads,
            &mut m,
            &mut v,
        )?;
        adamw::cuda::adapter_copy(cuda, segments, params.as_view(), &mut self.copy.view_mut())?;
        let (mut first, mut squares) = ([0], [0.0]);
        cuda.read(place.view(), &mut first)?;
        cuda.read(sum.view(), &mut squares)?;
        let non_finite = (first[0] != reduce::cuda::NONE).then_some(first[0] as usize);
        Ok(Update { grad_norm: squares[0].sqrt(), non_finite })
    }
}

impl Training {
    /// Bytes that it takes on a device.
    pub fn bytes_of(layout: &AdapterLayout, params: usize) -> usize {
        let scratch = reduce::cuda::SCRATCH + 1;
        4 * params * size_of::<f32>()
            + layout.placed().count() * size_of::<adamw::cuda::Segment>()
            + scratch * (size_of::<f64>() + size_of::<u32>())
    }

    fn new(cuda: &Arc<Cuda>, layout: &AdapterLayout, params: &[f32]) -> Result<Self, GpuError> {
        let zeros = || {
            let mut buf = cuda.alloc(params.len())?;
            cuda.fill(&mut buf.view_mut(), 0)?;
            Ok::<_, GpuError>(buf)
        };
        let segment = |placed: Placed| adamw::cuda::Segment {
            from: placed.from as u64,
            to: placed.to as u64,
            rows: placed.rows as u32,
            cols: placed.cols as u32,
            from_pitch: placed.cols as u32,
            to_pitch: placed.pitch as u32,
        };
        let segments: Vec<_> = layout.placed().map(segment).collect();
        let planning = |source| GpuError::Op { op: "the adapter's working copy".into(), source };
        Ok(Self {
            params: cuda.upload(params)?,
            grads: zeros()?,
            m: zeros()?,
            v: zeros()?,
            segments: adamw::cuda::Segments::new(cuda, &segments).map_err(planning)?,
            sums: cuda.alloc(reduce::cuda::SCRATCH)?,
            sum: cuda.alloc(1)?,
            places: cuda.alloc(reduce::cuda::SCRATCH)?,
            place: cuda.alloc(1)?,
        })
    }
}
