//! What PEFT's LoRA can do beside the low rank, and dayrun cannot: by name, with what to do instead.

/// A field that is refused while it is on.
pub(crate) struct Refused {
    pub field: &'static str,
    /// What it does.
    pub what: &'static str,
    /// What to do instead.
    pub advice: &'static str,
}

/// The way out wherever an adapter exists already.
const MERGE: &str = "merge the adapter into its base with PEFT's merge_and_unload(), and give dayrun the \
                     merged model as the base";
const WITHOUT: &str = "train an adapter without it";

const fn refused(field: &'static str, what: &'static str, advice: &'static str) -> Refused {
    Refused { field, what, advice }
}

/// Every such field of PEFT's LoraConfig.
const REFUSED: [Refused; 16] = [
    refused("use_dora", "DoRA, a trained magnitude for each output of the weight", MERGE),
    refused("bias", "trained biases beside the low rank", MERGE),
    refused("lora_bias", "a trained bias on B", MERGE),
    refused("modules_to_save", "whole modules trained beside the adapter", MERGE),
    refused("trainable_token_indices", "trained rows of the embedding", MERGE),
    refused("target_parameters", "an adapter on bare parameters, as experts have them", MERGE),
    refused(
        "fan_in_fan_out",
        "weights that are stored transposed, as GPT-2's are",
        "the linears of these models are not transposed: set it to false",
    ),
    refused("megatron_config", "layers that Megatron has split over devices", WITHOUT),
    refused("layer_replication", "a stack of repeated layers, which is another model", WITHOUT),
    refused("alora_invocation_tokens", "activated LoRA, on from certain tokens only", WITHOUT),
    refused("use_qalora", "QALoRA, where x is pooled on the way to A", WITHOUT),
    refused("use_bdlora", "block-diagonal A or B", WITHOUT),
    refused("kasa_config", "KaSA, a base without its smallest components", WITHOUT),
    refused("velora_config", "VeLoRA, activations compressed for the backward pass", WITHOUT),
    refused("monteclora_config", "MonteCLoRA, sampled adapters", WITHOUT),
    refused("arrow_config", "Arrow, routing between adapters", WITHOUT),
];

/// What a field does, and what to do instead, if it is one of these.
pub(crate) fn find(field: &str) -> Option<&'static Refused> {
    REFUSED.iter().find(|refused| refused.field == field)
}

/// What to do about an initialisation (`init_lora_weights`) that changes the base.
///
/// EVA, orthogonal and gaussian starts change A and B alone: what was trained from them is plain
/// LoRA.
pub(crate) fn of_initialisation(kind: &str) -> Refused {
    let (what, advice) = match kind {
        "loftq" => (
            "LoftQ, where the adapter belongs to a base that LoftQ has changed",
            "give dayrun the base that LoftQ saved, and set init_lora_weights to true in \
             adapter_config.json",
        ),
        kind if kind.starts_with("pissa") || ["olora", "corda", "lora_ga"].contains(&kind) => (
            "the adapter belongs to a base from which its first values were taken",
            "convert it with PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...) \
             makes plain LoRA of it",
        ),
        _ => (
            "an initialisation that dayrun does not know, and that may have changed the base",
            "if it leaves the base as it was, set init_lora_weights to true in adapter_config.json",
        ),
    };
    Refused { field: "init_lora_weights", what, advice }
}
