//! PEFT adapter directories: adapter_config.json, adapter_model.safetensors, README.md.
//!
//! Tensors are named `base_model.model.<module path>.lora_A.weight` `[r, in]` and
//! `….lora_B.weight` `[out, r]`, f32 as written here; f16 and bf16 are read too.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::card;
pub use super::card::BaseModel;
use super::error::{Misfit, PeftError};
use super::lora::{Adapter, LoraConfig, LoraModule};
use super::peft_config::{self, Read};
use super::targets::TargetError;
use crate::device::bytes::Bytes;
use crate::model::config::LlamaConfig;

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const TENSORS: &str = "adapter_model.safetensors";
const README: &str = "README.md";

/// Checks what of the adapter in `dir` can be checked without its model: that both files open,
/// and that nothing in the configuration is unsupported. Cheap, so it comes before a model is
/// loaded; [`load`] checks it all again.
pub fn check_config(dir: &Path) -> Result<(), PeftError> {
    read_config(dir)?;
    let path = dir.join(TENSORS);
    match std::fs::File::open(&path) {
        Ok(_) => Ok(()),
        Err(source) => Err(PeftError::Read { path, source }),
    }
}

/// The configuration in the text of an adapter_config.json, and its base model, by themselves; `path` is for
/// messages. What the fuzz tests read and write.
#[doc(hidden)]
pub fn config_from_text(
    text: &str,
    path: &Path,
) -> Result<(LoraConfig, Option<String>), PeftError> {
    peft_config::read(text, path).map(|read| (read.config, read.base_model))
}

/// The text of an adapter_config.json.
#[doc(hidden)]
pub fn config_to_text(config: &LoraConfig, base_model: &str) -> String {
    peft_config::write(config, base_model)
}

/// The configuration of the adapter in `dir`.
pub(super) fn read_config(dir: &Path) -> Result<Read, PeftError> {
    let path = dir.join(CONFIG);
    let text = std::fs::read_to_string(&path)
        .map_err(|source| PeftError::Read { path: path.clone(), source })?;
    peft_config::read(&text, &path)
}

/// Loads the adapter in `dir` for a model of this shape, which `name` names in messages. Every
/// expected tensor must be there, with its shape, and no other; what of the configuration is not
/// supported is refused by name.
pub fn load(dir: &Path, model: &LlamaConfig, name: &str) -> Result<Adapter, PeftError> {
    let read = read_config(dir)?;
    let path = dir.join(TENSORS);
    let bytes =
        Bytes::map(&path).map_err(|source| PeftError::Read { path: path.clone(), source })?;
    let file = deserialize(&bytes, &path)?;
    let (modules, len) = fit(dir, &read, &file, model, name)?;
    let mut params = vec![0.0; len];
    for module in &modules {
        let ranges = [module.a_range(), module.b_range()];
        for (tensor, range) in tensors(module).into_iter().zip(ranges) {
            let view = file.tensor(&tensor.name).map_err(|e| damaged(&path, e))?;
            let (path, name) = (path.clone(), tensor.name);
            let out = &mut params[range];
            if let Err(dtype) = read_floats(&view, out) {
                return Err(PeftError::Dtype { path, name, dtype });
            }
            if let Some(element) = out.iter().position(|v| !v.is_finite()) {
                let value = out[element];
                return Err(PeftError::NotFinite { path, name, element, value });
            }
        }
    }
    Ok(Adapter { config: read.config, modules, params })
}

/// An adapter's tensors, not yet read.
pub(super) fn deserialize<'a>(bytes: &'a Bytes, path: &Path) -> Result<SafeTensors<'a>, PeftError> {
    SafeTensors::deserialize(bytes).map_err(|e| damaged(path, e))
}

fn damaged(path: &Path, message: impl std::fmt::Display) -> PeftError {
    PeftError::Safetensors { path: path.into(), message: message.to_string() }
}

/// Where an adapter's modules will lie, and how much room they take. All shapes are checked:
/// nothing is allocated for an adapter that does not fit.
pub(super) fn fit(
    dir: &Path,
    Read { config, base_model }: &Read,
    file: &SafeTensors,
    model: &LlamaConfig,
    name: &str,
) -> Result<(Vec<LoraModule>, usize), PeftError> {
    let path = dir.join(TENSORS);
    let misfit = |path, misfit| PeftError::Misfit {
        path,
        misfit: Box::new(misfit),
        base: base_model.clone().unwrap_or("a model that it does not name".into()),
        model: name.to_string(),
    };
    let targets = config.targets(model).map_err(|error| match error {
        TargetError::NoModule { .. } => misfit(dir.join(CONFIG), error.into()),
        error => peft_config::target_error(&dir.join(CONFIG), error),
    })?;
    let (modules, len) = LoraModule::layout(&targets, model)
        .ok_or_else(|| damaged(&path, "the adapter would be too large for memory"))?;
    let mut expected = BTreeSet::new();
    for module in &modules {
        for Tensor { part, name, shape: want } in tensors(module) {
            let Ok(view) = file.tensor(&name) else {
                return Err(misfit(path, Misfit::MissingTensor { name }));
            };
            if view.shape() != want {
                let (got, r) = (view.shape().to_vec(), module.r);
                if is_another_rank(part, &got, want) {
                    return Err(PeftError::Rank { path, name, got, want, r });
                }
                let module = module.path.clone();
                return Err(misfit(path, Misfit::Shape { module, tensor: part, got, want }));
            }
            expected.insert(name);
        }
    }
    let mut names = file.names();
    names.sort_unstable();
    if let Some(extra) = names.iter().find(|name| !expected.contains(**name)) {
        return Err(misfit(path, Misfit::ExtraTensor { name: extra.to_string() }));
    }
    Ok((modules, len))
}

/// Whether a tensor differs from what is wanted in its rank alone.
fn is_another_rank(part: &str, got: &[usize], want: [usize; 2]) -> bool {
    let features = if part == LORA_A { 1 } else { 0 };
    got.len() == 2 && got[features] == want[features]
}

/// One of the two tensors of a module.
struct Tensor {
    part: &'static str,
    name: String,
    shape: [usize; 2],
}

pub(super) const LORA_A: &str = "lora_A.weight";
const LORA_B: &str = "lora_B.weight";

/// The two tensors of a module.
fn tensors(module: &LoraModule) -> [Tensor; 2] {
    let tensor = |part, shape| {
        let name = format!("base_model.model.{}.{part}", module.path);
        Tensor { part, name, shape }
    };
    let &LoraModule { in_features, out_features, r, .. } = module;
    [tensor(LORA_A, [r, in_features]), tensor(LORA_B, [out_features, r])]
}

/// Decodes a tensor's little-endian elements; the error is the type's name.
fn read_floats(view: &TensorView, out: &mut [f32]) -> Result<(), String> {
    fn fill<const N: usize>(data: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
        for (value, bytes) in out.iter_mut().zip(data.as_chunks::<N>().0) {
            *value = decode(*bytes);
        }
    }
    match view.dtype() {
        Dtype::F32 => fill(view.data(), out, f32::from_le_bytes),
        Dtype::F16 => fill(view.data(), out, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => fill(view.data(), out, |b| bf16::from_le_bytes(b).to_f32()),
        other => return Err(format!("{other:?}")),
    }
    Ok(())
}

/// Saves an adapter into `dir`, which is made if need be. Each file is written whole under a
/// temporary name and synced before any of them takes its place, so that a crash or a full disk
/// leaves the adapter that was there. Other files in `dir` stay.
pub fn save(adapter: &Adapter, dir: &Path, base: &BaseModel) -> Result<(), PeftError> {
    warn_of_gguf_name(&base.name);
    let error = |path: &Path, source| PeftError::Write { path: path.to_path_buf(), source };
    let bytes = to_safetensors(adapter).map_err(|e| error(&dir.join(TENSORS), e))?;
    let files = [
        (README, card::readme(adapter, base).into_bytes()),
        (CONFIG, peft_config::write(&adapter.config, &base.name).into_bytes()),
        // Last: whoever sees new tensors sees their configuration too.
        (TENSORS, bytes),
    ];
    std::fs::create_dir_all(dir).map_err(|e| error(dir, e))?;
    let mut written = Vec::new();
    for (name, content) in files {
        let path = dir.join(name);
        let write = || {
            let mut file = tempfile::Builder::new().prefix(".saving-").tempfile_in(dir)?;
            file.write_all(&content)?;
            set_readable(file.as_file())?;
            file.as_file().sync_all()?;
            Ok(file)
        };
        written.push((write().map_err(|e| error(&path, e))?, path));
    }
    for (file, path) in written {
        file.persist(&path).map_err(|e| error(&path, e.error))?;
    }
    sync_dir(dir).map_err(|e| error(dir, e))
}

/// An adapter may be saved many times; its base's name is worth one warning.
fn warn_of_gguf_name(name: &str) {
    static WARNED: std::sync::Once = std::sync::Once::new();
    let extension = Path::new(name).extension();
    if extension.is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
        WARNED.call_once(|| {
            tracing::warn!(
                "the adapter names {name} as its base, and PEFT cannot open a GGUF file: set \
                 model.name to the model's name on the Hub, or change base_model_name_or_path in \
                 the saved {CONFIG}"
            );
        });
    }
}

/// Temporary files are private to their maker; an adapter is a file like any other.
#[cfg(unix)]
fn set_readable(file: &std::fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn set_readable(_: &std::fs::File) -> std::io::Result<()> {
    Ok(())
}

/// Makes the renames themselves durable.
#[cfg(unix)]
fn sync_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> std::io::Result<()> {
    Ok(())
}

/// The adapter_model.safetensors of an adapter: the same adapter gives the same bytes.
fn to_safetensors(adapter: &Adapter) -> std::io::Result<Vec<u8>> {
    let params: Vec<u8> = adapter.params.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut views = Vec::new();
    for module in &adapter.modules {
        let ranges = [module.a_range(), module.b_range()];
        for (Tensor { name, shape, .. }, range) in tensors(module).into_iter().zip(ranges) {
            let data = &params[range.start * 4..range.end * 4];
            let view =
                TensorView::new(Dtype::F32, shape.to_vec(), data).map_err(std::io::Error::other)?;
            views.push((name, view));
        }
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(views, Some(metadata)).map_err(std::io::Error::other)
}
