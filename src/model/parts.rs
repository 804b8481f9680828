//! Building the pieces of [`Weights`](super::weights::Weights) from rows in f32, whatever file
//! they come from.
//!
//! Every value is rounded to bf16 first, linears before they are quantised too (but for linears that are held
//! in f32, see [`Linears`]). Models are published
//! in bf16, and a GGUF may hold the same numbers as F32 or as blocks; with this one rounding the
//! same weights give the same bits by every way in, and a base written out in bf16 and quantised
//! by bitsandbytes gives the same codes. The price: a checkpoint with true f32 or f16 precision
//! loses it before quantisation, at most half a bf16 ulp where NF4 itself errs by far more.

use std::ops::Range;
use std::path::Path;

use half::bf16;
use rayon::prelude::*;

use super::config::{Linear, LlamaConfig};
use super::weights::{Dense, LayerWeights, Matrix};
use super::{Error, Linears};
use crate::device::bytes::Bytes;
use crate::device::cpu::Element;
use crate::progress::{Progress, Report};
use crate::quant::{self, Nf4Matrix};

/// Rows that a task converts at a time are at least this many elements.
const TASK: usize = 1 << 16;

/// A matrix of bf16 (or f32) from `fill(rows, out)`, checked to be finite.
pub(super) fn dense<T: Element>(
    path: &Path,
    name: &str,
    rows: usize,
    cols: usize,
    fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), Error> + Sync,
) -> Result<Dense<T>, Error> {
    let step = TASK.div_ceil(cols).min(rows).max(1);
    let mut data = vec![0u8; rows * cols * size_of::<T>()];
    let results: Vec<Result<(), Error>> = data
        .par_chunks_mut(step * cols * size_of::<T>())
        .enumerate()
        .map_init(Vec::new, |values, (task, out)| {
            let range = task * step..rows.min((task + 1) * step);
            values.clear();
            values.resize(range.len() * cols, 0.0);
            fill(range.clone(), values)?;
            for (i, (out, &x)) in out.chunks_exact_mut(size_of::<T>()).zip(&*values).enumerate() {
                let rounded = T::from_f32(x);
                if !rounded.to_f32().is_finite() {
                    let error = quant::Error::NotFinite { index: range.start * cols + i, value: x };
                    return Err(in_tensor(path, name)(error));
                }
                out.copy_from_slice(bytemuck::bytes_of(&rounded));
            }
            Ok(())
        })
        .collect();
    results.into_iter().collect::<Result<(), Error>>()?;
    Ok(Dense::new(rows, cols, Bytes::from(data)))
}

/// A matrix whose bytes are taken as they lie in a mapped file, checked to be finite. They are little-endian
/// and aligned for `T`, see [`can_map`].
pub(super) fn mapped<T: Element>(
    path: &Path,
    name: &str,
    rows: usize,
    cols: usize,
    data: &Bytes,
) -> Result<Dense<T>, Error> {
    let dense = Dense::<T>::new(rows, cols, data.clone());
    match dense.as_slice().par_iter().position_first(|x| !x.to_f32().is_finite()) {
        None => Ok(dense),
        Some(index) => {
            let value = dense.as_slice()[index].to_f32();
            Err(in_tensor(path, name)(quant::Error::NotFinite { index, value }))
        }
    }
}

/// Whether the bytes of a file can be used where they lie, as elements `T`.
pub(super) fn can_map<T>(data: &Bytes) -> bool {
    data.as_ptr().cast::<T>().is_aligned() && cfg!(target_endian = "little")
}

/// Elements of `N` little-endian bytes in f32.
pub(super) fn widen<const N: usize>(data: &[u8], out: &mut [f32], f: impl Fn([u8; N]) -> f32) {
    for (out, &bytes) in out.iter_mut().zip(data.as_chunks::<N>().0) {
        *out = f(bytes);
    }
}

/// A linear's weight from `fill(rows, out)`, held as asked for.
pub(super) fn linear(
    path: &Path,
    name: &str,
    (rows, cols): (usize, usize),
    held: Linears,
    fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), Error> + Sync,
) -> Result<Matrix, Error> {
    match held {
        Linears::Nf4 => quantised(path, name, rows, cols, fill).map(Matrix::Nf4),
        Linears::Bf16 => dense(path, name, rows, cols, fill).map(Matrix::Bf16),
        Linears::F32 => dense(path, name, rows, cols, fill).map(Matrix::F32),
    }
}

/// A doubly quantised NF4 matrix from `fill(rows, out)`, its values rounded to bf16 first.
fn quantised(
    path: &Path,
    name: &str,
    rows: usize,
    cols: usize,
    fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), Error> + Sync,
) -> Result<Nf4Matrix, Error> {
    // An error of the quantiser has no name yet, one of `fill` is complete.
    enum Either {
        Quant(quant::Error),
        Fill(Error),
    }
    impl From<quant::Error> for Either {
        fn from(error: quant::Error) -> Self {
            Either::Quant(error)
        }
    }
    let matrix = quant::quantise_rows(rows, cols, |range, out| {
        fill(range, out).map_err(Either::Fill)?;
        for x in out.iter_mut() {
            *x = <bf16 as Element>::from_f32(*x).to_f32();
        }
        Ok(())
    });
    match matrix {
        Ok(matrix) => Ok(quant::double_quantise(matrix)),
        Err(Either::Quant(error)) => Err(in_tensor(path, name)(error)),
        Err(Either::Fill(error)) => Err(error),
    }
}

/// A layer from its linears and its vectors, each given by `read(which, len)`.
pub(super) fn layer<E>(
    config: &LlamaConfig,
    linears: [Matrix; 7],
    mut read: impl FnMut(Vector, usize) -> Result<Dense, E>,
) -> Result<LayerWeights, E> {
    let mut dense = |vector: Vector| read(vector, vector.len(config));
    let input_layernorm = dense(Vector::InputLayernorm)?;
    let post_attention_layernorm = dense(Vector::PostAttentionLayernorm)?;
    let qk_norm = match config.differences.qk_norm {
        true => Some([dense(Vector::QNorm)?, dense(Vector::KNorm)?]),
        false => None,
    };
    let mut biases: [Option<Dense>; 7] = Default::default();
    for linear in Linear::ALL.into_iter().filter(|linear| config.has_bias(*linear)) {
        biases[linear as usize] = Some(dense(Vector::Bias(linear))?);
    }
    Ok(LayerWeights { input_layernorm, post_attention_layernorm, qk_norm, linears, biases })
}

/// The vectors of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vector {
    InputLayernorm,
    PostAttentionLayernorm,
    QNorm,
    KNorm,
    Bias(Linear),
}

impl Vector {
    /// Those that a layer has.
    pub fn of(config: &LlamaConfig) -> Vec<Vector> {
        let mut vectors = vec![Vector::InputLayernorm, Vector::PostAttentionLayernorm];
        if config.differences.qk_norm {
            vectors.extend([Vector::QNorm, Vector::KNorm]);
        }
        let biased = Linear::ALL.into_iter().filter(|linear| config.has_bias(*linear));
        vectors.extend(biased.map(Vector::Bias));
        vectors
    }

    /// Its elements.
    pub fn len(self, config: &LlamaConfig) -> usize {
        match self {
            Vector::InputLayernorm | Vector::PostAttentionLayernorm => config.hidden_size,
            Vector::QNorm | Vector::KNorm => config.head_dim,
            Vector::Bias(linear) => linear.shape(config).0,
        }
    }
}

/// The seven linears of every layer from `make(layer, linear)`, in the model's order.
///
/// One at a time: threads share the work within a tensor, so that of a model larger than memory no more
/// than one tensor is there beside what has been made of it.
pub(super) fn layers(
    config: &LlamaConfig,
    stage: &'static str,
    report: Report,
    make: impl Fn(usize, Linear) -> Result<Matrix, Error>,
) -> Result<Vec<[Matrix; 7]>, Error> {
    let total = 7 * config.num_hidden_layers as u64;
    let mut done = 0;
    let mut layers = Vec::new();
    for layer in 0..config.num_hidden_layers {
        let mut linears = Vec::new();
        for linear in Linear::ALL {
            linears.push(make(layer, linear)?);
            done += 1;
            report(Progress { stage, done, total, unit: "tensors" });
        }
        layers.push(linears.try_into().unwrap_or_else(|_| unreachable!("seven linears")));
    }
    Ok(layers)
}

/// Adds the file and the tensor's name.
pub(super) fn in_tensor(path: &Path, name: &str) -> impl Fn(quant::Error) -> Error {
    move |source| Error::Tensor { path: path.into(), tensor: name.into(), source }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::model::family::Differences;

    #[test]
    fn no_more_than_one_tensor_is_in_flight() {
        let config = LlamaConfig {
            vocab_size: 8,
            hidden_size: 64,
            intermediate_size: 64,
            num_hidden_layers: 3,
            num_attention_heads: 1,
            num_key_value_heads: 1,
            head_dim: 64,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            max_position_embeddings: 8,
            tie_word_embeddings: true,
            differences: Differences::default(),
        };
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let make = |_, linear: Linear| {
            let before = now.fetch_add(1, Ordering::SeqCst);
            most.fetch_max(before + 1, Ordering::SeqCst);
            let (rows, cols) = linear.shape(&config);
            // Work that other threads of the pool take part in, and so could take up the next tensor.
            (0..64).into_par_iter().for_each(|_| std::thread::yield_now());
            let matrix = quantised(Path::new("x"), "x", rows, cols, |_, out| {
                out.fill(0.5);
                Ok(())
            });
            now.fetch_sub(1, Ordering::SeqCst);
            matrix.map(Matrix::Nf4)
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let made = pool.install(|| layers(&config, "", &crate::progress::quiet, make)).unwrap();
        assert_eq!(made.len(), 3);
        assert_eq!(most.into_inner(), 1);
    }
}
