//! What can be wrong with a PEFT directory.

use std::path::PathBuf;

/// Why an adapter could not be loaded or saved.
#[derive(Debug, thiserror::Error)]
pub enum PeftError {
    #[error("reading the adapter file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("saving the adapter: writing {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{}: not valid JSON: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{}: not a valid safetensors file: {message}", path.display())]
    Safetensors { path: PathBuf, message: String },
    #[error("{}: `{field}` is {value}, expected {expects}", path.display())]
    Field { path: PathBuf, field: String, value: String, expects: &'static str },
    #[error("{}: `{field}` is {value}: {what} is not supported", path.display())]
    Unsupported { path: PathBuf, field: String, value: String, what: &'static str },
    #[error("{}: `target_modules` is {value}, which names no linear layer of this model", path.display())]
    NoModule { path: PathBuf, value: String },
    #[error("{}: tensor `{name}` is missing", path.display())]
    MissingTensor { path: PathBuf, name: String },
    #[error("{}: tensor `{name}` belongs to no module that the adapter's target_modules name in this model", path.display())]
    ExtraTensor { path: PathBuf, name: String },
    #[error("{}: tensor `{name}` has shape {got:?}, this model and r = {r} need {want:?}", path.display())]
    Shape { path: PathBuf, name: String, got: Vec<usize>, want: [usize; 2], r: usize },
    #[error("{}: tensor `{name}` is of type {dtype}, expected F32, F16 or BF16", path.display())]
    Dtype { path: PathBuf, name: String, dtype: String },
    #[error("{}: tensor `{name}` holds {value} at element {element}", path.display())]
    NotFinite { path: PathBuf, name: String, element: usize, value: f32 },
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
                    "an adapter is a directory with adapter_config.json and \
                     adapter_model.safetensors"
                        .into()
                })
            }
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
            Self::Unsupported { field, .. } => Some(format!(
                "plain LoRA adapters are supported (r, lora_alpha, use_rslora, target_modules): \
                 train one without `{field}`"
            )),
            Self::Dtype { .. } => Some("save the adapter in 16 or 32 bits".into()),
            Self::NoModule { .. }
            | Self::MissingTensor { .. }
            | Self::ExtraTensor { .. }
            | Self::Shape { .. } => Some("is the adapter made for another model?".into()),
            Self::NotFinite { .. } => {
                Some("the run that made this adapter diverged: use an earlier one".into())
            }
            _ => None,
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}
