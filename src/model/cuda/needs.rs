//! How much memory a model needs on a device, known before any of it is allocated.

use super::adapter::Training;
use super::batch::Batch;
use super::weights::GpuWeights;
use super::{Gpu, GpuError};
use crate::adapter::Adapter;
use crate::device::cuda::{ALIGN, Cuda};
use crate::device::memory::{Placement, Plan};
use crate::model::config::LlamaConfig;
use crate::model::dispatch::Dispatch;
use crate::model::engine::EngineError;
use crate::model::llama::{self, Kind, LlamaProgram, Target};
use crate::model::lora_layout::AdapterLayout;
use crate::model::weights::Weights;
use crate::ops::lora_grad;

/// Bytes by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub weights: usize,
    /// Working copy, parameters, gradients and moments of the adapter.
    pub adapter: usize,
    /// Activations, gradients of activations, scratch, and the batch's lists.
    pub activations: usize,
    pub kv_cache: usize,
    /// What is in use beside this model.
    pub others: usize,
}

impl Needs {
    /// All together.
    pub fn total(&self) -> usize {
        self.weights + self.adapter + self.activations + self.kv_cache + self.others
    }
}

/// A run that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub needs: Needs,
    /// Bytes that the run may use.
    pub limit: usize,
    /// The most tokens of a micro-batch that fit; `None`: not even one, or nothing to choose.
    pub fits: Option<usize>,
    /// Whether it is for generating answers.
    pub generates: bool,
}

impl std::error::Error for Shortage {}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Needs { weights, adapter, activations, kv_cache, others } = self.needs;
        write!(
            f,
            "too little GPU memory: this needs {}, and may use {}",
            size(self.needs.total()),
            size(self.limit)
        )?;
        for (what, bytes) in [
            ("base weights", weights),
            ("adapter and optimizer", adapter),
            ("activations and scratch", activations),
            ("KV cache", kv_cache),
            ("in use already", others),
        ] {
            if bytes > 0 {
                write!(f, "\n  {what:<24}{:>10}", size(bytes))?;
            }
        }
        if let Some(tokens) = self.fits {
            write!(f, "\nmicro-batches of {tokens} tokens fit")?;
        }
        Ok(())
    }
}

impl Shortage {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self.fits {
            // A document must fit in one micro-batch.
            Some(tokens) => {
                format!("train.micro_batch_tokens = {tokens}, and data.max_length at most that")
            }
            None if self.generates => "lower eval.batch_rows or eval.max_new_tokens (of a command: \
                                       --batch-rows, --max-new-tokens), or use --device cpu (in the run \
                                       file: train.device = \"cpu\")"
                .into(),
            None => "a GPU with more memory, a smaller model, or --device cpu (in the run file: \
                     train.device = \"cpu\")"
                .into(),
        }
    }
}

/// `39.3 GB`, `12.0 MB`.
fn size(bytes: usize) -> String {
    let bytes = bytes as f64;
    match bytes {
        ..1e6 => format!("{:.1} kB", bytes * 1e-3),
        ..1e9 => format!("{:.1} MB", bytes * 1e-6),
        _ => format!("{:.2} GB", bytes * 1e-9),
    }
}

/// The program of a kind for a device.
pub(super) fn program(
    weights: &Weights,
    kind: Kind,
    dispatch: &Dispatch,
    layout: Option<&AdapterLayout>,
) -> LlamaProgram {
    let columns = |layer, group| {
        layout.map_or(0, |layout: &AdapterLayout| layout.group(layer, group).columns)
    };
    let nf4 = |layer: usize, linear| weights.layers[layer].linear(linear).as_nf4().is_some();
    let splits = lora_grad::cuda::splits(kind.tokens());
    let dropout = layout.is_some_and(|layout| layout.dropout > 0.0);
    let target = Target::Cuda { dispatch, nf4: &nf4, splits };
    llama::build(&weights.config, kind, target, &columns, dropout)
}

/// What a model and an adapter need before a program is chosen.
struct Fixed<'a> {
    base: &'a Weights,
    dispatch: &'a Dispatch,
    layout: Option<AdapterLayout>,
    params: usize,
}

impl<'a> Fixed<'a> {
    fn new(
        base: &'a Weights,
        dispatch: &'a Dispatch,
        adapter: Option<&Adapter>,
    ) -> Result<Self, EngineError> {
        let layout =
            adapter.map(|adapter| AdapterLayout::new(&base.config, adapter)).transpose()?;
        let params = adapter.map_or(0, |adapter| adapter.params.len());
        Ok(Self { base, dispatch, layout, params })
    }

    fn adapter(&self, kind: Kind) -> usize {
        let Some(layout) = &self.layout else { return 0 };
        let copy = layout.len * size_of::<half::bf16>();
        match kind {
            Kind::Train { .. } => copy + Training::bytes_of(layout, self.params),
            _ => copy,
        }
    }

    /// Buffers in one arena: the production's placement.
    fn activations(&self, kind: Kind) -> usize {
        let program = program(self.base, kind, self.dispatch, self.layout.as_ref()).program;
        let planned = Plan::new(program.specs(), Placement::Packed, ALIGN).bytes();
        planned + Batch::elements(kind) * size_of::<u32>()
    }

    fn check(&self, limit: usize, mut needs: Needs, kind: Kind) -> Result<(), GpuError> {
        needs.adapter = self.adapter(kind);
        needs.activations = self.activations(kind);
        if needs.total() <= limit {
            return Ok(());
        }
        let rest = needs.total() - needs.activations;
        let fit = |tokens: usize| {
            self.activations(kind.with_tokens(tokens)).saturating_add(rest) <= limit
        };
        let fits = match kind {
            Kind::Generate { .. } => None,
            _ if !fit(1) => None,
            _ => {
                // The most that fit: `low` does, `high` does not.
                let (mut low, mut high) = (1, kind.tokens());
                while high - low > 1 {
                    let middle = low + (high - low) / 2;
                    if fit(middle) {
                        low = middle;
                    } else {
                        high = middle;
                    }
                }
                Some(low)
            }
        };
        let generates = matches!(kind, Kind::Generate { .. });
        Err(GpuError::TooLittleMemory(Box::new(Shortage { needs, limit, fits, generates })))
    }
}

impl Needs {
    /// Checks that a model, an adapter and a program fit on a device to which nothing has been uploaded yet.
    /// `kv_tokens`: rows times capacity of the KV cache.
    ///
    /// # Errors
    /// [`GpuError::TooLittleMemory`], with what would fit; an adapter of another model.
    pub fn check(
        cuda: &Cuda,
        weights: &Weights,
        dispatch: &Dispatch,
        adapter: Option<&Adapter>,
        kind: Kind,
        kv_tokens: usize,
    ) -> Result<(), EngineError> {
        let needs = Needs {
            weights: GpuWeights::bytes_of(weights),
            kv_cache: kv_bytes(&weights.config, kv_tokens),
            others: cuda.used(),
            ..Needs::default()
        };
        let fixed = Fixed::new(weights, dispatch, adapter)?;
        Ok(fixed.check(cuda.limit(), needs, kind)?)
    }

    /// Checks that these bytes, whatever they are for, fit.
    pub(super) fn check_alone(self, limit: usize) -> Result<(), GpuError> {
        match self.total() <= limit {
            true => Ok(()),
            false => Err(GpuError::TooLittleMemory(Box::new(Shortage {
                needs: self,
                limit,
                fits: None,
                generates: self.kv_cache > 0,
            }))),
        }
    }

    /// As [`Needs::check`], for a model that has been uploaded. What else is in use counts as it is.
    pub(super) fn check_more(
        gpu: &Gpu,
        weights: &Weights,
        adapter: Option<&Adapter>,
        kind: Kind,
    ) -> Result<(), EngineError> {
        let (cuda, uploaded) = (gpu.cuda(), GpuWeights::bytes_of(weights));
        let others = cuda.used().saturating_sub(uploaded);
        let needs = Needs { weights: uploaded, others, ..Needs::default() };
        let fixed = Fixed::new(weights, &gpu.dispatch, adapter)?;
        Ok(fixed.check(cuda.limit(), needs, kind)?)
    }
}

/// Keys and values of so many tokens.
pub(super) fn kv_bytes(config: &LlamaConfig, tokens: usize) -> usize {
    let width = config.num_key_value_heads * config.head_dim;
    2 * config.num_hidden_layers * tokens * width * size_of::<half::bf16>()
}
