//! Which modules are adapted, with which rank and scale; what is refused.

use super::tests::{config, model};
use super::*;

fn pattern(text: &str) -> LoraConfig {
    let target_modules = TargetModules::Named(Names::Pattern(text.into()));
    LoraConfig { target_modules, ..config(&[]) }
}

/// The modules by short names: `0.q_proj`.
fn named(config: &LoraConfig) -> Vec<String> {
    let short = |target: Target| format!("{}.{}", target.layer, target.linear.name());
    config.targets(&model()).expect("names modules").into_iter().map(short).collect()
}

#[test]
fn a_list_names_ends_and_an_expression_whole_paths() {
    assert_eq!(
        named(&config(&["q_proj", "o_proj"])),
        ["0.q_proj", "0.o_proj", "1.q_proj", "1.o_proj"]
    );
    assert_eq!(
        named(&config(&["self_attn.q_proj", "model.layers.1.mlp.up_proj"])),
        ["0.q_proj", "1.q_proj", "1.up_proj"]
    );
    assert_eq!(named(&pattern(r".*\.(?!k_)[kqv]_proj")).len(), 4);
    assert_eq!(named(&pattern(r"model\.layers\.1\..*_proj")).len(), 7);
    assert_eq!(named(&LoraConfig::default()).len(), 14);
    for nothing in [config(&["proj"]), config(&["_proj"]), pattern("q_proj"), pattern(r".*q_pro")] {
        let error = nothing.targets(&model()).expect_err("names nothing");
        assert!(error.to_string().contains("names no linear layer of this model"), "{error}");
        let hint = error.hint().expect("advice");
        assert!(hint.contains("model.layers.0 to 1, each with self_attn.q_proj, "), "{hint}");
    }
}

#[test]
fn exclusions_come_first() {
    let mut config = config(&["q_proj", "model.layers.1.self_attn.q_proj", "down_proj"]);
    config.exclude_modules = Some(Names::List(vec!["1.self_attn.q_proj".into()]));
    assert_eq!(named(&config), ["0.q_proj", "0.down_proj", "1.down_proj"]);
    config.exclude_modules = Some(Names::Pattern(r".*\.mlp\..*".into()));
    assert_eq!(named(&config), ["0.q_proj", "1.q_proj"]);
    config.exclude_modules = Some(Names::Pattern(".*".into()));
    let error = config.targets(&model()).expect_err("nothing is left").to_string();
    assert!(error.ends_with("of this model once exclude_modules are taken out"), "{error}");
    // What is excluded cannot be wrong.
    let mut all = pattern(".*");
    all.exclude_modules = Some(Names::Pattern(r"(?!.*_proj$).*".into()));
    assert_eq!(named(&all).len(), 14);
}

#[test]
fn layers_as_peft_counts_them() {
    let mut config = config(&["q_proj", "model.layers.0.self_attn.k_proj"]);
    config.layers_to_transform = Some(OneOrMany::One(1));
    // A whole path is taken whatever the layers are.
    assert_eq!(named(&config), ["0.k_proj", "1.q_proj"]);
    config.layers_pattern = Some(OneOrMany::One("layers".into()));
    assert_eq!(named(&config), ["0.k_proj", "1.q_proj"]);
    config.layers_pattern = Some(OneOrMany::Many(vec!["h".into(), "blocks".into()]));
    assert_eq!(named(&config), ["0.k_proj"]);
    config.layers_pattern = None;
    config.layers_to_transform = Some(OneOrMany::Many(vec![0, 7]));
    assert_eq!(named(&config), ["0.q_proj", "0.k_proj"]);
    let error = config.check_used(&model()).expect_err("there is no layer 7").to_string();
    assert_eq!(error, "`layers_to_transform` names layer 7, the model has 2: 0 to 1");
}

#[test]
fn what_is_no_linear_is_refused() {
    for (config, module) in [
        (pattern(".*"), "model too, and that is the whole model"),
        (pattern(r".*mlp.*"), "model.layers.0.mlp too, and that is a whole MLP"),
        (pattern(r".*(norm|q_proj)"), "model.layers.0.input_layernorm too, and that is a norm"),
        (config(&["q_proj", "embed_tokens"]), "model.embed_tokens too, and that is the embedding"),
        (config(&["q_proj", "lm_head"]), "lm_head too, and that is the head"),
    ] {
        let error = config.targets(&model()).expect_err(module);
        assert!(error.to_string().contains(&format!("which names {module}")), "{error}");
        assert!(error.hint().expect("advice").contains("exclude_modules"));
    }
}

#[test]
fn the_first_pattern_counts_and_each_module_has_its_scale() {
    let mut config = config(&["q_proj", "k_proj", "down_proj"]);
    config.rank_pattern = Patterns(vec![
        ("layers.1.self_attn.q_proj".into(), 2),
        ("q_proj".into(), 6),
        ("^model.layers.0.*down_proj".into(), 9),
        ("proj".into(), 5), // an end of a part is not an end behind a dot
    ]);
    config.alpha_pattern = Patterns(vec![("k_proj|1.mlp.down_proj".into(), 3.0)]);
    let got = |config: &LoraConfig| -> Vec<(usize, f32)> {
        let targets = config.targets(&model()).expect("names modules");
        targets.into_iter().map(|target| (target.r, target.scale)).collect()
    };
    // q, k and down of layer 0, then of layer 1; r = 4 and alpha = 8 where no pattern matches.
    let ranks = [6, 4, 9, 2, 4, 4];
    let alphas = [8.0, 3.0, 8.0, 8.0, 3.0, 3.0];
    let plain = ranks.iter().zip(alphas).map(|(&r, alpha)| (r, (alpha / r as f64) as f32));
    assert_eq!(got(&config), plain.collect::<Vec<_>>());
    config.use_rslora = true;
    let stable =
        ranks.iter().zip(alphas).map(|(&r, alpha)| (r, (alpha / (r as f64).sqrt()) as f32));
    assert_eq!(got(&config), stable.collect::<Vec<_>>());
    // A fresh adapter tells of what would be ignored.
    let error = Adapter::new(config, &model(), 0).expect_err("`proj` matches nothing");
    assert!(
        error.to_string().starts_with("`rank_pattern` has \"proj\", which matches none"),
        "{error}"
    );
    assert!(error.hint().expect("advice").contains("self_attn.q_proj"));
}
