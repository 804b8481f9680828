//! Which way through a quantised linear a GPU takes, by shape and number of rows.
//!
//! Fused: one kernel decodes NF4 as it multiplies. Scratch: the weight is decoded into memory once, then
//! multiplied as bf16. The two differ in the order of their sums, so the table is part of a run: it lies in
//! the resolved run file, and a run from that file takes the same ways.

use super::config::{Linear, LlamaConfig};

/// How many rows the fused kernel takes, for each shape of a linear.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Dispatch {
    /// Where the numbers are from.
    pub source: String,
    pub linears: Vec<LinearDispatch>,
}

/// One shape's numbers: the fused kernel up to so many rows, scratch above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearDispatch {
    pub out_features: usize,
    pub in_features: usize,
    pub forward_fused_rows: usize,
    pub backward_fused_rows: usize,
}

impl Dispatch {
    /// A guess per architecture until it is measured: one number of rows for every shape, forward and
    /// backward. Nothing of it was measured on a GPU.
    ///
    /// The numbers are the crossovers of a model of faster kernels than the ones here: a fused kernel with
    /// tuned tiles of 256 x 128, and a library's GEMM after the scratch. There, the fused kernel saves the
    /// round trip of the decoded weight through memory, and pays with instructions beside its mma.sync. Where
    /// these hide (Ada, Blackwell's consumer cards) it wins up to some thousand rows, on A100 up to about
    /// 1,400, and on Hopper, whose mma.sync reaches half of what its tensor cores give to a plain GEMM, to
    /// about 430. Where the kernels here cross is not known.
    pub fn modelled(capability: (i32, i32), config: &LlamaConfig) -> Self {
        let (rows, class) = match capability {
            (8, 0) => (1400, "A100"),
            (9..=11, _) => (430, "H100"),
            _ => (4096, "RTX 4090"),
        };
        let (major, minor) = capability;
        let source = format!("a guess for sm_{major}{minor} (as {class}) until it is measured");
        Self::with_rows(config, rows, source)
    }

    /// The fused kernel always.
    pub fn all_fused(config: &LlamaConfig) -> Self {
        // TOML's integers have a sign.
        Self::with_rows(config, i64::MAX as usize, "always fused".into())
    }

    /// The scratch always.
    pub fn all_scratch(config: &LlamaConfig) -> Self {
        Self::with_rows(config, 0, "always scratch".into())
    }

    fn with_rows(config: &LlamaConfig, rows: usize, source: String) -> Self {
        let mut linears: Vec<LinearDispatch> = Vec::new();
        for linear in Linear::ALL {
            let (out_features, in_features) = linear.shape(config);
            let same = |l: &LinearDispatch| l.is(out_features, in_features);
            if !linears.iter().any(same) {
                linears.push(LinearDispatch {
                    out_features,
                    in_features,
                    forward_fused_rows: rows,
                    backward_fused_rows: rows,
                });
            }
        }
        Self { source, linears }
    }

    /// The first shape of a model that the table does not have.
    pub fn missing(&self, config: &LlamaConfig) -> Option<(usize, usize)> {
        Linear::ALL
            .map(|linear| linear.shape(config))
            .into_iter()
            .find(|shape| self.of(*shape).is_none())
    }

    fn of(&self, (out_features, in_features): (usize, usize)) -> Option<&LinearDispatch> {
        self.linears.iter().find(|l| l.is(out_features, in_features))
    }

    /// Whether `rows` rows go through the fused kernel in the forward pass. A shape that the table does not
    /// have does.
    pub fn forward_is_fused(&self, shape: (usize, usize), rows: usize) -> bool {
        self.of(shape).is_none_or(|l| rows <= l.forward_fused_rows)
    }

    /// As [`Dispatch::forward_is_fused`], for dx.
    pub fn backward_is_fused(&self, shape: (usize, usize), rows: usize) -> bool {
        self.of(shape).is_none_or(|l| rows <= l.backward_fused_rows)
    }
}

impl LinearDispatch {
    fn is(&self, out_features: usize, in_features: usize) -> bool {
        (self.out_features, self.in_features) == (out_features, in_features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LlamaConfig {
        LlamaConfig {
            vocab_size: 259,
            hidden_size: 64,
            intermediate_size: 128,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 16,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            max_position_embeddings: 64,
            tie_word_embeddings: true,
            differences: Default::default(),
        }
    }

    #[test]
    fn each_shape_stands_once_and_reads_back_from_toml() {
        let table = Dispatch::modelled((8, 0), &config());
        // q and o, k and v, gate and up, down.
        assert_eq!(table.linears.len(), 4);
        assert_eq!(table.missing(&config()), None);
        assert!(table.forward_is_fused((64, 64), 1400) && !table.backward_is_fused((32, 64), 1401));
        for table in [table, Dispatch::all_fused(&config()), Dispatch::all_scratch(&config())] {
            let text = toml::to_string(&table).unwrap();
            assert_eq!(toml::from_str::<Dispatch>(&text).unwrap(), table, "{text}");
        }
        assert!(!Dispatch::all_scratch(&config()).forward_is_fused((64, 64), 1));
        let other = LlamaConfig { intermediate_size: 192, ..config() };
        assert_eq!(Dispatch::all_fused(&config()).missing(&other), Some((192, 64)));
    }
}
