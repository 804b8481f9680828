//! Rope's angular velocities, and the ways in which models stretch them to longer contexts.

use std::f64::consts::TAU;

use crate::ops::rope;

/// How a model's rope differs from θ_i = rope_theta^(−2i/d), i < d/2. Named as in config.json.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub enum RopeScaling {
    #[default]
    None,
    /// All of them divided by `factor` (Chen et al. 2023, arXiv 2306.15595).
    Linear { factor: f64 },
    /// Llama 3.1's: wavelengths λ = 2π/θ above original / low_freq_factor are stretched by `factor`, those
    /// below original / high_freq_factor are left, and between the two it goes over linearly in original/λ
    /// (arXiv 2407.21783, and Meta's release of the model).
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// Each divided by a factor of its own: `rope_freqs.weight` of a GGUF file, in f32.
    Factors(Vec<f32>),
}

impl RopeScaling {
    /// The d/2 angular velocities of heads of `head_dim`, in radians a token.
    pub fn velocities(&self, head_dim: usize, rope_theta: f64) -> Vec<f64> {
        let plain = rope::velocities(head_dim, rope_theta).into_iter();
        match self {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|theta| theta / factor).collect(),
            RopeScaling::Factors(factors) => {
                plain.zip(factors).map(|(theta, &factor)| theta / f64::from(factor)).collect()
            }
            &RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            } => plain
                .map(|theta| {
                    // Turns of this pair over the original context.
                    let turns = original as f64 * theta / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    theta * (kept + (1.0 - kept) / factor)
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Llama 3.1's numbers.
    fn llama3() -> RopeScaling {
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        }
    }

    #[test]
    fn fast_pairs_stay_and_slow_ones_are_stretched() {
        let plain = RopeScaling::None.velocities(128, 5e5);
        let scaled = llama3().velocities(128, 5e5);
        for (i, (plain, scaled)) in plain.iter().zip(&scaled).enumerate() {
            let wavelength = TAU / plain;
            if wavelength < 8192.0 / 4.0 {
                assert_eq!(scaled, plain, "{i}");
            } else if wavelength > 8192.0 {
                assert_eq!(*scaled, plain / 8.0, "{i}");
            } else {
                assert!((plain / 8.0..=*plain).contains(scaled), "{i}");
            }
        }
        // Twenty-nine pairs are left alone, the 35th is the first in full stretch.
        assert!(scaled[28] == plain[28] && scaled[29] < plain[29]);
        assert!(scaled[34] > plain[34] / 8.0 && scaled[35] == plain[35] / 8.0);
    }

    #[test]
    fn linear_and_factors() {
        let plain = RopeScaling::None.velocities(8, 1e4);
        assert_eq!(plain[0], 1.0);
        let linear = RopeScaling::Linear { factor: 4.0 }.velocities(8, 1e4);
        let factors = RopeScaling::Factors(vec![4.0; 4]).velocities(8, 1e4);
        assert_eq!(linear, factors);
        assert_eq!(linear, plain.iter().map(|theta| theta / 4.0).collect::<Vec<_>>());
    }
}
