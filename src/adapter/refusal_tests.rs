//! PEFT directories that are refused: what is not supported, what does not fit.

use serde_json::json;

use super::peft::load;
use super::tests::{adapter, load_with, model, saved};
use crate::model::config::LlamaConfig;

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (field, value) in [
        ("peft_type", json!("LOHA")),
        ("task_type", json!("SEQ_CLS")),
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("lora_bias", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("target_parameters", json!(["experts.w1"])),
        ("layer_replication", json!([[0, 2]])),
        ("megatron_config", json!({"a": 1})),
        ("use_qalora", json!(true)),
        ("alora_invocation_tokens", json!([1, 2])),
        ("fan_in_fan_out", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("lora_ga")),
        ("init_lora_weights", json!("mica")),
        ("trainable_token_indices", json!([1])),
        ("a_field_of_tomorrow", json!(true)),
        ("target_modules", json!(["q_proj", "lm_head"])),
        ("target_modules", json!(".*")),
        ("target_modules", json!(["q_proj", "self_attn"])),
        ("target_modules", json!(["c_attn"])),
        ("target_modules", json!(7)),
        ("target_modules", json!([])),
        ("exclude_modules", json!(3)),
        ("layers_to_transform", json!(-1)),
        ("layers_to_transform", json!(["1"])),
        ("rank_pattern", json!({"q_proj": 0})),
        ("rank_pattern", json!(["q_proj"])),
        ("alpha_pattern", json!({"q_proj": -1})),
        ("lora_dropout", json!(1.0)),
        ("r", json!(0)),
        ("r", json!(u64::MAX)),
        ("lora_alpha", json!("x")),
    ] {
        let error = load_with(|c| c[field] = value.clone()).expect_err(field);
        let hint = error.hint().expect(field);
        let error = error.to_string();
        assert!(error.contains(&format!("`{field}` is {value}")), "{error}");
        assert!(error.contains("adapter_config.json"), "{error}");
        assert!(!hint.is_empty());
    }
    // Expressions that are none, and keys that do not go together.
    for (field, value) in [
        ("target_modules", json!("(")),
        ("exclude_modules", json!("a)(b")),
        ("rank_pattern", json!({"*": 8})),
        ("alpha_pattern", json!({"(": 8})),
        ("layers_pattern", json!("layers")),
    ] {
        let error = load_with(|c| c[field] = value.clone()).expect_err(field).to_string();
        assert!(error.contains(&format!("json: `{field}` ")), "{error}");
    }
    let error = load_with(|c| {
        c["target_modules"] = json!(".*q_proj");
        c["layers_to_transform"] = json!([0]);
    });
    let error = error.expect_err("PEFT refuses it, too").to_string();
    assert!(error.contains("`layers_to_transform` is [0]: it goes with a list"), "{error}");
    // Harmless ones.
    for (field, value) in [
        ("lora_dropout", json!(0.05)),
        ("a_field_of_tomorrow", json!(null)),
        ("layers_to_transform", json!([])),
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!("eva")),
        ("rank_pattern", json!({})),
        ("rank_pattern", json!({"no_such_module": 3})),
        ("corda_config", json!({"cache_file": null})),
        ("peft_version", json!("0.99")),
    ] {
        load_with(|c| c[field] = value.clone()).expect(field);
    }
}

#[test]
fn every_tensor_must_match() {
    let error = load_with(|c| c["target_modules"] = json!(["q_proj"])).expect_err("extra");
    assert!(error.to_string().contains("down_proj.lora_A.weight` belongs to no"), "{error}");
    let error = load_with(|c| c["target_modules"] = json!(["q_proj", "v_proj", "down_proj"]))
        .expect_err("missing");
    assert!(error.to_string().contains("v_proj.lora_A.weight` is missing"), "{error}");
    let error = load_with(|c| c["r"] = json!(5)).expect_err("rank");
    assert!(error.to_string().contains("has shape [4, 24], its r = 5 needs [5, 24]"), "{error}");
    assert!(error.hint().expect("advice").contains("rank_pattern"));
    let error = load_with(|c| c["rank_pattern"] = json!({"q_proj": 3})).expect_err("rank");
    assert!(error.to_string().contains("has shape [4, 24], its r = 3 needs [3, 24]"), "{error}");
    let mut nan = adapter(&["o_proj"]);
    nan.params[5] = f32::NAN;
    let error = load(saved(&nan).path(), &model(), "org/model").expect_err("NaN").to_string();
    assert!(error.contains("layers.0.self_attn.o_proj.lora_A.weight` holds NaN at element 5"));
}

/// The module, both shapes, and both models by name.
#[test]
fn an_adapter_for_another_model_is_told_as_that() {
    let dir = saved(&adapter(&["q_proj", "down_proj"]));
    let other = |change: &dyn Fn(&mut LlamaConfig)| {
        let mut other = model();
        change(&mut other);
        let error = load(dir.path(), &other, "org/other").expect_err("another model");
        assert_eq!(error.hint().as_deref(), Some("the adapter goes with org/model: load that"));
        let error = error.to_string();
        let models = "\n  the adapter is for org/model, the model loaded is org/other";
        assert!(error.ends_with(models), "{error}");
        error
    };
    let error = other(&|model| model.hidden_size = 16);
    assert!(
        error.contains(
            "module `model.layers.0.self_attn.q_proj` has another shape: `lora_A.weight` is \
             [4, 24], this model's module needs [4, 16]"
        ),
        "{error}"
    );
    let error = other(&|model| model.num_attention_heads = 2);
    assert!(
        error.contains("`lora_B.weight` is [24, 4], this model's module needs [16, 4]"),
        "{error}"
    );
    let error = other(&|model| model.num_hidden_layers = 3);
    assert!(error.contains("layers.2.self_attn.q_proj.lora_A.weight` is missing"), "{error}");
    let error = other(&|model| model.num_hidden_layers = 1);
    assert!(error.contains("layers.1.mlp.down_proj.lora_A.weight` belongs to no"), "{error}");
}
