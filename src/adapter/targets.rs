//! Which modules an adapter has, and each one's rank and scale: PEFT's rules, by name and by pattern.
//!
//! As PEFT 0.21 has them in `check_target_module_exists` (targets, exclusions, layers) and
//! `get_pattern_key` (ranks and alphas).

use super::lora::LoraConfig;
use super::names::{Names, OneOrMany, Patterns, TargetModules};
use super::pattern::Pattern;
use crate::model::config::{Linear, LlamaConfig};

/// What of an adapter's targets, exclusions, layers or patterns cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("`{field}` has the regular expression {pattern:?}: {problem}")]
    Pattern { field: &'static str, pattern: String, problem: String },
    #[error("`{field}` is {value}: {problem}")]
    Value { field: &'static str, value: String, problem: &'static str },
    #[error("`target_modules` is {targets}, which names no linear layer of this model{why}")]
    NoModule { targets: String, why: &'static str, layers: usize },
    #[error("`target_modules` is {targets}, which names {module} too, and that is {what}")]
    NotALinear { targets: String, module: String, what: &'static str },
    #[error("`layers_to_transform` names layer {layer}, the model has {layers}: 0 to {}", layers - 1)]
    NoLayer { layer: usize, layers: usize },
    #[error("`{field}` has {pattern:?}, which matches none of the modules that are adapted")]
    Unused { field: &'static str, pattern: String },
}

impl TargetError {
    /// The key that it is about.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Pattern { field, .. }
            | Self::Value { field, .. }
            | Self::Unused { field, .. } => field,
            Self::NoModule { why: EXCLUDED, .. } => "exclude_modules",
            Self::NoModule { .. } | Self::NotALinear { .. } => "target_modules",
            Self::NoLayer { .. } => "layers_to_transform",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let paths = |linear: Linear| linear.path(0)["model.layers.0.".len()..].to_string();
        let all = || Linear::ALL.map(paths).join(", ");
        Some(match self {
            Self::Pattern { .. } => {
                "the syntax is that of Python's re; a dot is written \\., and \\\\. inside of quotes \
                 that know escapes"
                    .into()
            }
            Self::Value { .. } | Self::NoLayer { .. } => return None,
            Self::NoModule { layers, .. } => format!(
                "the model has model.layers.0 to {}, each with {}; a string is a regular expression \
                 for the whole path (\".*\\.q_proj\"), a list names its end ([\"q_proj\"])",
                layers.saturating_sub(1),
                all()
            ),
            Self::NotALinear { .. } => format!(
                "what can be adapted are the linear layers of the decoder: {}; narrow the \
                 expression, or take the module out with exclude_modules",
                all()
            ),
            Self::Unused { .. } => format!(
                "it is a regular expression for the path or its end, such as \"q_proj\" or \
                 \"layers.0.self_attn.q_proj\"; a layer has {}",
                all()
            ),
        })
    }
}

/// Why nothing is left of what `target_modules` names.
const EXCLUDED: &str = " once exclude_modules are taken out";

/// A linear that is adapted, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub layer: usize,
    pub linear: Linear,
    pub r: usize,
    /// alpha / r, or alpha / sqrt(r) with rsLoRA.
    pub scale: f32,
}

/// The layer and linear that a module is, or in words what else.
type Module = Result<(usize, Linear), &'static str>;

/// Every module of a model that a name or pattern can match, in its order: the path, and which
/// linear it is, or what else.
fn modules(model: &LlamaConfig) -> Vec<(String, Module)> {
    let mut all = vec![
        ("model".to_string(), Err("the whole model")),
        ("model.embed_tokens".to_string(), Err("the embedding")),
        ("model.layers".to_string(), Err("all layers together")),
    ];
    for layer in 0..model.num_hidden_layers {
        let path = |name: &str| format!("model.layers.{layer}{name}");
        all.push((path(""), Err("a whole layer")));
        all.push((path(".self_attn"), Err("a whole attention block")));
        all.extend(Linear::ALL.map(|linear| (linear.path(layer), Ok((layer, linear)))));
        if model.differences.qk_norm {
            all.push((path(".self_attn.q_norm"), Err("a norm")));
            all.push((path(".self_attn.k_norm"), Err("a norm")));
        }
        all.push((path(".mlp"), Err("a whole MLP")));
        all.push((path(".mlp.act_fn"), Err("an activation function")));
        all.push((path(".input_layernorm"), Err("a norm")));
        all.push((path(".post_attention_layernorm"), Err("a norm")));
    }
    all.push(("model.norm".to_string(), Err("a norm")));
    all.push(("model.rotary_emb".to_string(), Err("the position embedding")));
    all.push(("lm_head".to_string(), Err("the head")));
    all
}

/// `target_modules` or `exclude_modules`, ready to match.
enum Matcher<'a> {
    Pattern(Pattern),
    List(&'a [String]),
}

impl<'a> Matcher<'a> {
    fn new(field: &'static str, names: &'a Names) -> Result<Self, TargetError> {
        Ok(match names {
            Names::Pattern(text) => Self::Pattern(Pattern::full(field, text)?),
            Names::List(names) => Self::List(names),
        })
    }

    fn names(&self, path: &str) -> Result<bool, TargetError> {
        match self {
            Self::Pattern(pattern) => pattern.is_match(path),
            Self::List(names) => Ok(names.iter().any(|name| ends_in(path, name))),
        }
    }

    /// Whether it names the whole path, which PEFT then takes whatever `layers_to_transform` says.
    fn names_exactly(&self, path: &str) -> bool {
        matches!(self, Self::List(names) if names.iter().any(|name| name == path))
    }
}

/// Whether `name` is the path, or its end behind a dot.
fn ends_in(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// `layers_to_transform`, ready to match.
struct LayerFilter<'a> {
    layers: &'a [usize],
    patterns: Vec<Pattern>,
}

impl LayerFilter<'_> {
    fn takes(&self, path: &str) -> Result<bool, TargetError> {
        for pattern in &self.patterns {
            if let Some(number) = pattern.first_group(path)? {
                let layer = number.and_then(|number| number.parse().ok());
                return Ok(layer.is_some_and(|layer: usize| self.layers.contains(&layer)));
            }
        }
        Ok(false)
    }
}

/// The patterns of ranks or alphas, ready to match.
struct Overrides<T> {
    field: &'static str,
    patterns: Vec<(Pattern, T)>,
}

impl<T: Copy> Overrides<T> {
    fn new(field: &'static str, patterns: &Patterns<T>) -> Result<Self, TargetError> {
        let compile = |(text, value): &(String, T)| Ok((Pattern::ending(field, text)?, *value));
        Ok(Self { field, patterns: patterns.0.iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// The value of the first pattern that matches.
    fn of(&self, path: &str) -> Result<Option<T>, TargetError> {
        for (pattern, value) in &self.patterns {
            if pattern.is_match(path)? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }

    /// Refuses a pattern that matches none of `paths`.
    fn check_used(&self, paths: &[String]) -> Result<(), TargetError> {
        for (pattern, _) in &self.patterns {
            let mut used = false;
            for path in paths {
                used = used || pattern.is_match(path)?;
            }
            if !used {
                let pattern = pattern.text().to_string();
                return Err(TargetError::Unused { field: self.field, pattern });
            }
        }
        Ok(())
    }
}

/// Everything of a configuration that matches paths.
struct Rules<'a> {
    /// `None`: every linear.
    targets: Option<Matcher<'a>>,
    exclude: Option<Matcher<'a>>,
    layers: Option<LayerFilter<'a>>,
    ranks: Overrides<usize>,
    alphas: Overrides<f64>,
}

impl<'a> Rules<'a> {
    fn new(config: &'a LoraConfig) -> Result<Self, TargetError> {
        let targets = match &config.target_modules {
            TargetModules::AllLinear => None,
            TargetModules::Named(names) => Some(Matcher::new("target_modules", names)?),
        };
        let exclude = config.exclude_modules.as_ref();
        Ok(Self {
            targets,
            exclude: exclude.map(|names| Matcher::new("exclude_modules", names)).transpose()?,
            layers: layer_filter(config)?,
            ranks: Overrides::new("rank_pattern", &config.rank_pattern)?,
            alphas: Overrides::new("alpha_pattern", &config.alpha_pattern)?,
        })
    }

    /// Whether `target_modules` and `layers_to_transform` name it.
    fn targets(&self, path: &str, is_linear: bool) -> Result<bool, TargetError> {
        let Some(targets) = &self.targets else { return Ok(is_linear) };
        match &self.layers {
            Some(layers) if !targets.names_exactly(path) => {
                Ok(targets.names(path)? && layers.takes(path)?)
            }
            _ => targets.names(path),
        }
    }

    fn excludes(&self, path: &str) -> Result<bool, TargetError> {
        self.exclude.as_ref().map_or(Ok(false), |exclude| exclude.names(path))
    }
}

fn layer_filter(config: &LoraConfig) -> Result<Option<LayerFilter<'_>>, TargetError> {
    let refuse = |field, value, problem| Err(TargetError::Value { field, value, problem });
    let patterns = config.layers_pattern.as_ref().map_or(&[][..], OneOrMany::as_slice);
    let Some(layers) = &config.layers_to_transform else {
        return match patterns.first() {
            None => Ok(None),
            Some(pattern) => refuse(
                "layers_pattern",
                format!("{pattern:?}"),
                "it says where the layers of layers_to_transform are counted, which is not given",
            ),
        };
    };
    if !matches!(config.target_modules, TargetModules::Named(Names::List(_))) {
        return refuse(
            "layers_to_transform",
            format!("{:?}", layers.as_slice()),
            "it goes with a list of target_modules only; an expression names its layers itself",
        );
    }
    let compile = |pattern: &String| Pattern::layer("layers_pattern", Some(pattern));
    let mut patterns = patterns.iter().map(compile).collect::<Result<Vec<_>, _>>()?;
    if patterns.is_empty() {
        patterns.push(Pattern::layer("layers_pattern", None)?);
    }
    Ok(Some(LayerFilter { layers: layers.as_slice(), patterns }))
}

impl LoraConfig {
    /// Checks what needs no model: that every expression is one, and that the keys go together.
    pub fn check(&self) -> Result<(), TargetError> {
        Rules::new(self).map(|_| ())
    }

    /// Refuses targets that name no linear of any model with up to `layers` layers.
    pub fn names_something(&self, layers: usize) -> Result<(), TargetError> {
        let rules = Rules::new(self)?;
        let mut why = "";
        for (layer, linear) in (0..layers).flat_map(|l| Linear::ALL.map(|linear| (l, linear))) {
            let path = linear.path(layer);
            if rules.targets(&path, true)? {
                if !rules.excludes(&path)? {
                    return Ok(());
                }
                why = EXCLUDED;
            }
        }
        Err(TargetError::NoModule { targets: self.shown_targets(), why, layers: 1 })
    }

    /// The linears of a model that are adapted, in its order, each with its rank and scale.
    ///
    /// Errors: nothing is named, or something that is no linear of a decoder layer.
    pub fn targets(&self, model: &LlamaConfig) -> Result<Vec<Target>, TargetError> {
        let rules = Rules::new(self)?;
        let mut found = Vec::new();
        let mut why = if self.layers_to_transform.is_some() { " in these layers" } else { "" };
        for (path, module) in modules(model) {
            if !rules.targets(&path, module.is_ok())? {
                continue;
            }
            if rules.excludes(&path)? {
                why = EXCLUDED;
                continue;
            }
            let (layer, linear) = module.map_err(|what| TargetError::NotALinear {
                targets: self.shown_targets(),
                module: path.clone(),
                what,
            })?;
            let r = rules.ranks.of(&path)?.unwrap_or(self.r);
            let alpha = rules.alphas.of(&path)?.unwrap_or(self.lora_alpha);
            let divisor = if self.use_rslora { (r as f64).sqrt() } else { r as f64 };
            found.push(Target { layer, linear, r, scale: (alpha / divisor) as f32 });
        }
        if found.is_empty() {
            let layers = model.num_hidden_layers;
            return Err(TargetError::NoModule { targets: self.shown_targets(), why, layers });
        }
        Ok(found)
    }

    /// Refuses what PEFT lets pass in silence, and what a person who writes a run file wants to hear of: layers that
    /// the model does not have, patterns that match no module.
    pub fn check_used(&self, model: &LlamaConfig) -> Result<(), TargetError> {
        let layers = self.layers_to_transform.as_ref().map_or(&[][..], OneOrMany::as_slice);
        if let Some(&layer) = layers.iter().find(|&&layer| layer >= model.num_hidden_layers) {
            return Err(TargetError::NoLayer { layer, layers: model.num_hidden_layers });
        }
        let path = |target: Target| target.linear.path(target.layer);
        let paths: Vec<String> = self.targets(model)?.into_iter().map(path).collect();
        let rules = Rules::new(self)?;
        rules.ranks.check_used(&paths)?;
        rules.alphas.check_used(&paths)
    }

    /// `target_modules` for a message, cut to a line.
    fn shown_targets(&self) -> String {
        let text = serde_json::to_string(&self.target_modules).unwrap_or_default();
        match text.char_indices().nth(80) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}
