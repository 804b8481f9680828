//! What can be wrong with a PEFT directory.

use std::path::PathBuf;

use super::targets::TargetError;

/// Why an adapter could not be loaded or saved.
#[derive(Debug, thiserror::Error)]
pub enum PeftError {
    #[error("reading the adapter file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: there is no adapter in it, nor in its folders", path.display())]
    NoAdapter { path: PathBuf },
    #[error("saving the adapter: writing {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{}: not valid JSON: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{}: not a valid safetensors file: {message}", path.display())]
    Safetensors { path: PathBuf, message: String },
    #[error("{}: `{field}` is {value}, expected {expects}", path.display())]
    Field { path: PathBuf, field: String, value: String, expects: &'static str },
    #[error("{}: `{field}` is {value}, which is not supported: {what}", path.display())]
    Unsupported {
        path: PathBuf,
        field: String,
        value: String,
        what: &'static str,
        advice: &'static str,
    },
    #[error("{}: {source}", path.display())]
    Target { path: PathBuf, source: TargetError },
    #[error("{}: tensor `{name}` has shape {got:?}, its r = {r} needs {want:?}", path.display())]
    Rank { path: PathBuf, name: String, got: Vec<usize>, want: [usize; 2], r: usize },
    #[error(
        "{}: {misfit}\n  the adapter is for {base}, the model loaded is {model}",
        path.display()
    )]
    Misfit { path: PathBuf, misfit: Box<Misfit>, base: String, model: String },
    #[error("{}: tensor `{name}` is of type {dtype}, expected F32, F16 or BF16", path.display())]
    Dtype { path: PathBuf, name: String, dtype: String },
    #[error("{}: tensor `{name}` holds {value} at element {element}", path.display())]
    NotFinite { path: PathBuf, name: String, element: usize, value: f32 },
}

/// Why an adapter does not fit the model that is loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(
        "module `{module}` has another shape: `{tensor}` is {got:?}, this model's module needs {want:?}"
    )]
    Shape { module: String, tensor: &'static str, got: Vec<usize>, want: [usize; 2] },
    #[error("tensor `{name}` is missing")]
    MissingTensor { name: String },
    #[error(
        "tensor `{name}` belongs to no module that the adapter's configuration names in this model"
    )]
    ExtraTensor { name: String },
}

impl PeftError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
                let bin = path.with_file_name("adapter_model.bin");
                Some(if path.ends_with("adapter_model.safetensors") && bin.exists() {
                    "adapter_model.bin is a pickle, which dayrun does not read: save the adapter \
                     with PEFT's save_pretrained(safe_serialization=True)"
                        .into()
                } else {
                    AN_ADAPTER.into()
                })
            }
            Self::NoAdapter { .. } => Some(AN_ADAPTER.into()),
            Self::Write { source, .. } if is_full(source) => {
                Some("free some space; what was there before is untouched".into())
            }
            Self::Write { .. } => Some("what was there before is untouched".into()),
            Self::Safetensors { .. } => {
                Some("the file is damaged or cut off: copy or download it again".into())
            }
            Self::Json { .. } | Self::Field { .. } => Some(
                "the file is not as PEFT's save_pretrained writes it: save the adapter again"
                    .into(),
            ),
            Self::Unsupported { advice, .. } => Some(advice.to_string()),
            Self::Target { source, .. } => source.hint(),
            Self::Rank { .. } => Some(
                "r and rank_pattern in adapter_config.json are not those that the tensors were \
                 saved with"
                    .into(),
            ),
            Self::Misfit { misfit, base, .. } => match &**misfit {
                Misfit::Target(error) => error.hint(),
                _ => Some(format!("the adapter goes with {base}: load that")),
            },
            Self::Dtype { .. } => Some("save the adapter in 16 or 32 bits".into()),
            Self::NotFinite { .. } => {
                Some("the run that made this adapter diverged: use an earlier one".into())
            }
            _ => None,
        }
    }
}

const AN_ADAPTER: &str =
    "an adapter is a directory with adapter_config.json and adapter_model.safetensors";

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}
