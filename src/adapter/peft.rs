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

use super::error::PeftError;
use super::lora::{Adapter, LoraModule};
use super::peft_config;
use crate::device::bytes::Bytes;
use crate::model::config::LlamaConfig;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const README: &str = "README.md";

/// What an adapter was trained on, for its configuration and README.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BaseModel {
    /// Hub name or path, where PEFT will look for the base.
    pub name: String,
    /// Which bytes exactly: file names with their hashes, or one content hash.
    pub bytes: String,
    /// How they were held in training: `NF4, double quantised`.
    pub quantization: String,
}

/// Checks what of the adapter in `dir` can be checked without its model: that both files open,
/// and that nothing in the configuration is unsupported. Cheap, so it comes before a model is
/// loaded; [`load`] checks it all again.
pub fn check_config(dir: &Path) -> Result<(), PeftError> {
    let path = dir.join(CONFIG);
    let text = std::fs::read_to_string(&path)
        .map_err(|source| PeftError::Read { path: path.clone(), source })?;
    peft_config::fields(&text, &path)?;
    let path = dir.join(TENSORS);
    match std::fs::File::open(&path) {
        Ok(_) => Ok(()),
        Err(source) => Err(PeftError::Read { path, source }),
    }
}

/// Loads the adapter in `dir` for a model of this shape. Every expected tensor must be there,
/// with its shape, and no other; what of the configuration is not supported is refused by name.
pub fn load(dir: &Path, model: &LlamaConfig) -> Result<Adapter, PeftError> {
    let path = dir.join(CONFIG);
    let text = std::fs::read_to_string(&path)
        .map_err(|source| PeftError::Read { path: path.clone(), source })?;
    let peft_config::Read { config, modules } = peft_config::read(&text, &path, model)?;

    let path = dir.join(TENSORS);
    let bytes =
        Bytes::map(&path).map_err(|source| PeftError::Read { path: path.clone(), source })?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| PeftError::Safetensors { path: path.clone(), message: e.to_string() })?;
    let r = config.r;
    let (modules, len) = LoraModule::layout(&modules, r, model).ok_or(PeftError::Safetensors {
        path: path.clone(),
        message: "the adapter would be too large for memory".into(),
    })?;

    // All shapes first: nothing is allocated for an adapter that does not fit.
    let mut expected = BTreeSet::new();
    for module in &modules {
        for (name, want) in tensors(module, r) {
            let view = file
                .tensor(&name)
                .map_err(|_| PeftError::MissingTensor { path: path.clone(), name: name.clone() })?;
            if view.shape() != want {
                let got = view.shape().to_vec();
                return Err(PeftError::Shape { path, name, got, want, r });
            }
            expected.insert(name);
        }
    }
    let mut names = file.names();
    names.sort_unstable();
    if let Some(extra) = names.iter().find(|name| !expected.contains(**name)) {
        return Err(PeftError::ExtraTensor { path, name: extra.to_string() });
    }

    let mut params = vec![0.0; len];
    for module in &modules {
        let ranges = [module.a_range(r), module.b_range(r)];
        for ((name, _), range) in tensors(module, r).into_iter().zip(ranges) {
            let view = file
                .tensor(&name)
                .map_err(|_| PeftError::MissingTensor { path: path.clone(), name: name.clone() })?;
            let out = &mut params[range];
            read_floats(&view, out).map_err(|dtype| PeftError::Dtype {
                path: path.clone(),
                name: name.clone(),
                dtype,
            })?;
            if let Some(element) = out.iter().position(|v| !v.is_finite()) {
                let value = out[element];
                return Err(PeftError::NotFinite { path, name, element, value });
            }
        }
    }
    Ok(Adapter { config, modules, params })
}

/// The two tensors of a module: name and shape.
fn tensors(module: &LoraModule, r: usize) -> [(String, [usize; 2]); 2] {
    let path = &module.path;
    [
        (format!("base_model.model.{path}.lora_A.weight"), [r, module.in_features]),
        (format!("base_model.model.{path}.lora_B.weight"), [module.out_features, r]),
    ]
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
        (README, readme(adapter, base).into_bytes()),
        (CONFIG, peft_config::write(adapter, &base.name).into_bytes()),
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
    let r = adapter.config.r;
    let params: Vec<u8> = adapter.params.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut views = Vec::new();
    for module in &adapter.modules {
        let ranges = [module.a_range(r), module.b_range(r)];
        for ((name, shape), range) in tensors(module, r).into_iter().zip(ranges) {
            let data = &params[range.start * 4..range.end * 4];
            let view =
                TensorView::new(Dtype::F32, shape.to_vec(), data).map_err(std::io::Error::other)?;
            views.push((name, view));
        }
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(views, Some(metadata)).map_err(std::io::Error::other)
}

/// The model card.
fn readme(adapter: &Adapter, base: &BaseModel) -> String {
    let config = &adapter.config;
    let scale = if config.use_rslora { "lora_alpha / sqrt(r)" } else { "lora_alpha / r" };
    let name = serde_json::Value::from(base.name.as_str());
    format!(
        "---\nbase_model: {name}\nlibrary_name: peft\npipeline_tag: text-generation\n---\n\n\
         # LoRA adapter\n\n\
         Trained by dayrun {version}. It holds the adapter alone, not the base model.\n\n\
         | | |\n| --- | --- |\n\
         | base model | {base_name} |\n\
         | trained on these bytes | {bytes} |\n\
         | held in training as | {quantization} |\n\
         | r, lora_alpha | {r}, {alpha} (scale {scale}) |\n\
         | target modules | {targets} |\n\
         | parameters | {parameters} |\n\n\
         ```python\n\
         from peft import PeftModel\n\
         from transformers import AutoModelForCausalLM\n\n\
         base = AutoModelForCausalLM.from_pretrained({name})\n\
         model = PeftModel.from_pretrained(base, \"path/to/this/directory\")\n\
         ```\n",
        version = env!("CARGO_PKG_VERSION"),
        base_name = base.name,
        bytes = base.bytes,
        quantization = base.quantization,
        r = config.r,
        alpha = config.lora_alpha,
        targets = config.target_modules.join(", "),
        parameters = adapter.params.len(),
    )
}
