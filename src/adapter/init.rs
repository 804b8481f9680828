//! A fresh adapter: layout, and first values that depend only on the seed and the module's path.

use super::lora::{Adapter, LoraConfig, LoraModule};
use super::peft_config::as_json_reads;
use super::targets::{Target, TargetError};
use crate::model::config::LlamaConfig;
use crate::rng::Rng;

impl LoraModule {
    /// Lays the given linears of a model out in one flat vector: A `[r, in]`, then B `[out, r]`,
    /// module by module. Returns the vector's length too; `None` when it overflows.
    pub(super) fn layout(
        targets: &[Target],
        model: &LlamaConfig,
    ) -> Option<(Vec<LoraModule>, usize)> {
        let mut out = Vec::with_capacity(targets.len());
        let mut end = 0usize;
        for &Target { layer, linear, r, scale } in targets {
            let (out_features, in_features) = linear.shape(model);
            let a = end;
            let b = a.checked_add(r.checked_mul(in_features)?)?;
            end = b.checked_add(r.checked_mul(out_features)?)?;
            let path = linear.path(layer);
            out.push(LoraModule { path, in_features, out_features, r, scale, a, b });
        }
        Some((out, end))
    }
}

impl Adapter {
    /// A fresh adapter on the modules that `config` names: A uniform in ±1/sqrt(in_features),
    /// which is what PEFT's kaiming_uniform(a = sqrt 5) comes to, and B zero, so that it changes
    /// nothing yet. A module's values depend on the seed and its path alone.
    ///
    /// Errors: as [`LoraConfig::targets`] and [`LoraConfig::check_used`].
    pub fn new(
        mut config: LoraConfig,
        model: &LlamaConfig,
        seed: u64,
    ) -> Result<Self, TargetError> {
        // It is what reading its own file will give.
        config.lora_alpha = as_json_reads(config.lora_alpha);
        config.lora_dropout = as_json_reads(config.lora_dropout);
        config.alpha_pattern.0.iter_mut().for_each(|(_, alpha)| *alpha = as_json_reads(*alpha));
        config.check_used(model)?;
        let targets = config.targets(model)?;
        let (modules, len) = LoraModule::layout(&targets, model).ok_or(TargetError::Value {
            field: "r",
            value: config.r.to_string(),
            problem: "the adapter would be too large for memory",
        })?;
        let mut params = vec![0.0; len];
        for module in &modules {
            let bound = 1.0 / (module.in_features as f64).sqrt();
            let rng = Rng::new(&[seed]).named(&module.path);
            for (i, value) in params[module.a_range()].iter_mut().enumerate() {
                *value = ((2.0 * rng.unit(i as u64) - 1.0) * bound) as f32;
            }
        }
        Ok(Self { config, modules, params })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::tests::{config, model};

    #[test]
    fn values_depend_on_seed_and_path_alone() {
        let all = Adapter::new(config(&["q_proj", "k_proj", "down_proj"]), &model(), 7).unwrap();
        let one = Adapter::new(config(&["down_proj"]), &model(), 7).unwrap();
        let at = |adapter: &Adapter, path: &str| {
            let module = adapter.modules.iter().find(|m| m.path == path).cloned().expect(path);
            adapter.params[module.a_range()].to_vec()
        };
        let path = "model.layers.1.mlp.down_proj";
        assert_eq!(at(&all, path), at(&one, path));
        assert_ne!(at(&all, path), at(&all, "model.layers.0.mlp.down_proj"));
        let other = Adapter::new(config(&["down_proj"]), &model(), 8).unwrap();
        assert_ne!(at(&one, path), at(&other, path));
    }

    #[test]
    fn a_is_uniform_and_b_is_zero() {
        let mut wide = model();
        wide.hidden_size = 4096;
        let adapter = Adapter::new(config(&["q_proj"]), &wide, 1).unwrap();
        let module = &adapter.modules[0];
        let a = &adapter.params[module.a_range()];
        let bound = 1.0 / 64.0f32;
        assert!(a.iter().all(|v| v.abs() <= bound));
        // Mean 0 and variance bound²/3, to within five standard errors of n draws.
        let n = a.len() as f32;
        let mean = a.iter().sum::<f32>() / n / bound;
        let square = a.iter().map(|v| (v / bound).powi(2)).sum::<f32>() / n;
        assert!(mean.abs() < 5.0 * (1.0 / 3.0 / n).sqrt(), "{mean}");
        assert!((square - 1.0 / 3.0).abs() < 5.0 * (4.0 / 45.0 / n).sqrt(), "{square}");
        assert!(adapter.params[module.b_range()].iter().all(|v| *v == 0.0));
    }
}
