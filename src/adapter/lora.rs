//! LoRA parameters: y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ, all of a model's A and B in one flat f32 vector.
//!
//! Hu et al. 2021 (arXiv 2106.09685), section 4.1; the scale of rsLoRA from Kalajdzievski 2023
//! (arXiv 2312.03732).

/// What a PEFT `adapter_config.json` says, as far as it is supported.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    pub r: usize,
    pub lora_alpha: f64,
    pub use_rslora: bool,
    /// Module names (`q_proj`), in the order of the model.
    pub target_modules: Vec<String>,
}

impl LoraConfig {
    /// s = alpha / r, or alpha / sqrt(r) with rsLoRA.
    pub fn scale(&self) -> f32 {
        let r = self.r as f64;
        (self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }) as f32
    }
}

/// One adapted linear: where its A `[r, in_features]` and B `[out_features, r]` lie, row-major,
/// in [`Adapter::params`].
#[derive(Clone, Debug, PartialEq)]
pub struct LoraModule {
    /// `model.layers.3.self_attn.q_proj`.
    pub path: String,
    pub in_features: usize,
    pub out_features: usize,
    pub a: usize,
    pub b: usize,
}

/// A LoRA adapter on the CPU: configuration, layout and f32 master parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pub config: LoraConfig,
    pub modules: Vec<LoraModule>,
    pub params: Vec<f32>,
}

impl Adapter {
    /// The tensor that element `index` of the flat parameters belongs to, by PEFT's name.
    pub fn tensor_at(&self, index: usize) -> String {
        let r = self.config.r;
        for module in &self.modules {
            for (part, start, len) in [
                ("lora_A", module.a, r * module.in_features),
                ("lora_B", module.b, r * module.out_features),
            ] {
                if (start..start + len).contains(&index) {
                    return format!("{}.{part}.weight", module.path);
                }
            }
        }
        format!("element {index}")
    }
}
