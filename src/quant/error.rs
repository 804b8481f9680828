//! What can go wrong with quantised weights, quantising or reading them.

/// An error about one tensor. Whoever knows the tensor's name and file adds them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A weight to quantise is NaN or infinite; its whole block would be lost.
    #[error("element {index} is {value}")]
    NotFinite { index: usize, value: f32 },
    /// The number of values is not `rows * cols`.
    #[error("{found} values for a [{rows}, {cols}] matrix")]
    Length { rows: usize, cols: usize, found: usize },
    /// A companion tensor of a bitsandbytes weight is absent.
    #[error("`{suffix}` is missing beside the 4-bit weight")]
    Missing { suffix: &'static str },
    /// A companion tensor has the wrong type or number of values.
    #[error("`{suffix}` has {found}, expected {expected}")]
    Companion { suffix: &'static str, expected: String, found: String },
    /// The packed weight has the wrong number of bytes.
    #[error("{found} bytes of packed codes, a [{rows}, {cols}] matrix has {expected}")]
    PackedLength { rows: usize, cols: usize, expected: usize, found: usize },
    /// The JSON of the quantisation state cannot be read.
    #[error("reading the quantisation state's JSON: {source}")]
    StateJson { source: serde_json::Error },
    /// The quantisation state asks for what is not supported.
    #[error("{key} is {found}, only {supported} is supported")]
    Unsupported { key: &'static str, found: String, supported: &'static str },
    /// The codebook stored with the weight is not NF4's.
    #[error("`quant_map` entry {index} is {found}, NF4 has {expected}")]
    Codebook { index: usize, found: f32, expected: f32 },
    /// A stored scale is NaN or infinite.
    #[error("scale {index} of `{suffix}` is {value}")]
    Scale { suffix: &'static str, index: usize, value: f32 },
}

impl Error {
    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NotFinite { .. } | Error::Scale { .. } => {
                Some("the checkpoint is damaged or its training diverged; use another one".into())
            }
            Error::Unsupported { .. } | Error::Codebook { .. } => Some(
                "load the model's 16-bit weights instead: they are quantised to NF4 on loading"
                    .into(),
            ),
            _ => None,
        }
    }
}
