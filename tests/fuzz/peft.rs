//! PEFT's adapter_config.json.

use std::path::Path;

use dayrun::adapter::peft::{config_from_text, config_to_text};

use super::common::Rng;
use super::{Budget, check_message, for_each_input, json, mutate};

/// A parsed value takes some 80 bytes; an expression is compiled into a program of up to megabytes.
const BUDGET: Budget = Budget { fixed: 64 << 20, per_byte: 300 };

const FILE: &str = "adapter-7/adapter_config.json";

/// Fields as PEFT writes them when they are off.
const OFF: [(&str, &str); 14] = [
    ("auto_mapping", "null"),
    ("bias", "\"none\""),
    ("fan_in_fan_out", "false"),
    ("inference_mode", "true"),
    ("init_lora_weights", "true"),
    ("layer_replication", "null"),
    ("loftq_config", "{}"),
    ("lora_bias", "false"),
    ("megatron_core", "\"megatron.core\""),
    ("modules_to_save", "null"),
    ("revision", "null"),
    ("use_dora", "false"),
    ("target_parameters", "null"),
    ("peft_version", "\"0.17.1\""),
];

/// Names and expressions for modules, good and bad.
fn module(rng: &mut Rng) -> String {
    const MODULES: [&str; 22] = [
        "q_proj",
        "k_proj",
        "v_proj",
        "down_proj",
        "self_attn.q_proj",
        "model.layers.0.self_attn.q_proj",
        "lm_head",
        "all-linear",
        "ALL-LINEAR",
        ".*_proj",
        ".*\\.(q|k)_proj",
        "model\\.layers\\.\\d+\\.mlp\\.up_proj",
        "^.*(?<!k)_proj$",
        "(?=q)q_proj",
        "(a*)*b",
        "(",
        "[a-",
        "\\p{Greek}+",
        "(?P<x>a)(?P=x)",
        "(x{50}){50}",
        "layers",
        "blocks",
    ];
    match rng.below(12) {
        0 => mutate::odd_text(rng),
        _ => MODULES[rng.below(MODULES.len())].to_string(),
    }
}

fn modules(rng: &mut Rng) -> String {
    if json::one_in(rng, 3) {
        let one = module(rng);
        return json::text(rng, &one);
    }
    let mut all = Vec::new();
    for _ in 0..rng.below(4) {
        let one = module(rng);
        all.push(json::text(rng, &one));
    }
    json::list(rng, &all)
}

/// A table of expressions and numbers.
fn patterns(rng: &mut Rng, number: impl Fn(&mut Rng) -> String) -> String {
    let names: Vec<String> = (0..rng.below(3)).map(|_| module(rng)).collect();
    let fields = names.iter().map(|name| (name.as_str(), number(rng))).collect();
    json::object(rng, fields, 0)
}

fn rank(rng: &mut Rng) -> String {
    if json::one_in(rng, 12) { json::number(rng) } else { (1 + rng.below(128)).to_string() }
}

fn alpha(rng: &mut Rng) -> String {
    match rng.below(3) {
        0 => json::number(rng),
        1 => format!("{}", (1 + rng.below(1 << 20)) as f64 / 64.0),
        _ => (1 + rng.below(128)).to_string(),
    }
}

fn config(rng: &mut Rng) -> String {
    let mut fields = vec![
        ("peft_type", "\"LORA\"".to_string()),
        ("task_type", ["\"CAUSAL_LM\"", "null"][rng.below(2)].into()),
        ("base_model_name_or_path", json::odd(rng)),
        ("r", rank(rng)),
        ("lora_alpha", alpha(rng)),
        ("target_modules", modules(rng)),
    ];
    for (name, value) in OFF {
        if json::one_in(rng, 2) {
            let value =
                if json::one_in(rng, 300) { json::value(rng, 1) } else { value.to_string() };
            fields.push((name, value));
        }
    }
    let mut maybe = |name, value: fn(&mut Rng) -> String, often: usize| {
        if json::one_in(rng, often) {
            let value = value(rng);
            fields.push((name, value));
        }
    };
    maybe("use_rslora", |rng| ["true", "false", "null"][rng.below(3)].into(), 2);
    maybe("lora_dropout", |rng| ["0.0", "0.05", "0.1", "1", "0.999"][rng.below(5)].into(), 2);
    maybe("exclude_modules", modules, 5);
    maybe("rank_pattern", |rng| patterns(rng, rank), 4);
    maybe("alpha_pattern", |rng| patterns(rng, alpha), 4);
    maybe("layers_to_transform", |rng| ["0", "[0, 2]", "[]", "null", "-1"][rng.below(5)].into(), 6);
    maybe("layers_pattern", |rng| ["\"layers\"", "[\"layers\"]", "null"][rng.below(3)].into(), 8);
    json::object(rng, fields, 1)
}

#[test]
fn configurations_are_refused_or_read_back() {
    for_each_input("peft", 1500, |rng| {
        let mut text = config(rng).into_bytes();
        if json::one_in(rng, 4) {
            mutate::bytes(rng, &mut text);
        }
        let text = String::from_utf8_lossy(&text);
        match BUDGET.hold(text.len(), || config_from_text(&text, Path::new(FILE))) {
            Err(error) => {
                let message = error.to_string();
                check_message(&message, text.len(), &[FILE]);
                check_message(&error.hint().unwrap_or_default(), text.len(), &[]);
                assert!(message.contains('`') || message.contains("JSON"), "no field: {message}");
                false
            }
            Ok((config, base_model)) => {
                let written = config_to_text(&config, base_model.as_deref().unwrap_or_default());
                let (again, base_again) = config_from_text(&written, Path::new(FILE))
                    .unwrap_or_else(|error| panic!("{error}\n{written}"));
                assert_eq!(again, config, "{written}");
                assert_eq!(base_again, base_model);
                assert!(config.lora_alpha.is_finite() && config.lora_alpha > 0.0);
                true
            }
        }
    });
}
