//! LoRA parameters: y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ, all of a model's A and B in one flat f32 vector.
//!
//! Hu et al. 2021 (arXiv 2106.09685), section 4.1; the scale of rsLoRA from Kalajdzievski 2023
//! (arXiv 2312.03732).

use std::ops::Range;

use super::names::{Names, OneOrMany, Patterns, TargetModules};

/// What a PEFT `adapter_config.json` says, as far as it is supported.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// The rank of modules that no `rank_pattern` matches.
    pub r: usize,
    /// The alpha of modules that no `alpha_pattern` matches.
    pub lora_alpha: f64,
    /// The scale is alpha / sqrt(r) instead of alpha / r.
    pub use_rslora: bool,
    pub target_modules: TargetModules,
    pub exclude_modules: Option<Names>,
    /// Of the modules that a list of `target_modules` names by their ends, those in these layers.
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// What stands before a layer's number in a path; without it, anything.
    pub layers_pattern: Option<OneOrMany<String>>,
    pub rank_pattern: Patterns<usize>,
    pub alpha_pattern: Patterns<f64>,
    /// The share of x's elements that training leaves out on the way to A.
    pub lora_dropout: f64,
}

impl Default for LoraConfig {
    /// PEFT's defaults, on every linear.
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            use_rslora: false,
            target_modules: TargetModules::AllLinear,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
            lora_dropout: 0.0,
        }
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
    pub r: usize,
    /// s.
    pub scale: f32,
    pub a: usize,
    pub b: usize,
}

impl LoraModule {
    /// Where A lies in [`Adapter::params`].
    pub fn a_range(&self) -> Range<usize> {
        self.a..self.a + self.r * self.in_features
    }

    /// Where B lies in [`Adapter::params`].
    pub fn b_range(&self) -> Range<usize> {
        self.b..self.b + self.r * self.out_features
    }
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
        for module in &self.modules {
            for (part, range) in [("lora_A", module.a_range()), ("lora_B", module.b_range())] {
                if range.contains(&index) {
                    return format!("{}.{part}.weight", module.path);
                }
            }
        }
        format!("element {index}")
    }
}
