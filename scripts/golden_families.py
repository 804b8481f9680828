"""tests/golden/families/NAME: a small random model of every family, longer than its window and original context.

NAME/bnb           as transformers and bitsandbytes save it: NF4, double quantisation, heads of 64
NAME/model.gguf    the same weights before quantisation, in bf16, as llama.cpp's converter lays them out
NAME/adapter       r 2, all linears, as PEFT saves it
NAME/golden.json   prompts; documents with loss masks
NAME/golden.safetensors
    logits.N       of prompt N, 4-bit base
    adapter.N      the same with the adapter; nll.N and grad.MODULE.lora_A / lora_B over the documents
    plain.N        of the weights before quantisation, in f32
    mistake.NAME   of the last prompt with the adapter under a planted mistake

Attention is peaked, logits have a standard deviation above 1, compute is f32.
"""

import shutil

import gguf
import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, CONFIG_MAPPING

from golden_tiny import dumps, load_bnb, logits, make_adapter, nll, permute, save_bnb, trainable

VOCAB = 48
LENGTHS = (1, 16, 17, 45)
WINDOW, ORIGINAL = 12, 16
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": ORIGINAL}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}

# model_type, what its configuration adds, GGUF architecture
FAMILIES = {
    "llama3": ("llama", dict(rope_parameters=LLAMA3, head_dim=64), gguf.MODEL_ARCH.LLAMA),
    "llama-linear": ("llama", dict(rope_parameters=LINEAR, head_dim=64, attention_bias=True), gguf.MODEL_ARCH.LLAMA),
    "mistral": ("mistral", dict(sliding_window=WINDOW, head_dim=64), gguf.MODEL_ARCH.LLAMA),
    # Heads of 64 follow from the width where a family has no head_dim.
    "qwen2": ("qwen2", dict(hidden_size=128), gguf.MODEL_ARCH.QWEN2),
    "qwen2-sliding": ("qwen2", dict(hidden_size=128, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1), None),
    "qwen3": ("qwen3", dict(head_dim=64), gguf.MODEL_ARCH.QWEN3),
    "smollm3": ("smollm3", dict(hidden_size=128, num_hidden_layers=4, pad_token_id=2), gguf.MODEL_ARCH.SMOLLM3),
}


def random_model(name, seed):
    """Every weight is exact in bf16."""
    kind, extra, _ = FAMILIES[name]
    shape = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                 num_key_value_heads=1, max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1,
                 eos_token_id=2, tie_word_embeddings=name == "smollm3", rope_parameters=dict(PLAIN),
                 attn_implementation="eager")
    config = CONFIG_MAPPING[kind](**(shape | extra))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    gains = {"q_proj": 2.0, "k_proj": 2.0, "gate_proj": 1.5, "up_proj": 1.5, "lm_head": 2.0}
    with torch.no_grad():
        for path, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            module = path.split(".")[-2]
            if "norm" in path:
                # Norms of q and k take their projections' gain away: theirs makes attention peaked.
                p.copy_((2.0 if module in ("q_norm", "k_norm") else 1.0) * (1 + 0.25 * noise))
            elif path.endswith("bias"):
                p.copy_(noise)
            elif module == "embed_tokens":
                p.copy_(noise * (0.25 if config.tie_word_embeddings else 1.0))
            else:
                p.copy_(noise * gains.get(module, 1.0) / p.shape[1] ** 0.5)
            p.copy_(p.bfloat16().float())
    return model.eval()


def prompts(seed):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB, (n,), generator=g) for n in LENGTHS]


def documents(seed):
    """(ids, loss mask): mask[t] means that token t is predicted, from t - 1."""
    g = torch.Generator().manual_seed(seed + 1)
    out = []
    for length, start in ((9, 3), (37, 11), (21, 1)):
        mask = torch.zeros(length, dtype=torch.bool)
        mask[start:] = True
        out.append((torch.randint(3, VOCAB, (length,), generator=g), mask))
    return out


def attentions(model):
    return [m for m in model.modules() if type(m).__name__.endswith("Attention")]


class Same(torch.nn.Module):
    def forward(self, x):
        return x


def no_qk_norm(model):
    for a in attentions(model):
        a.q_norm, a.k_norm = Same(), Same()


def one_norm_for_both(model):
    for a in attentions(model):
        a.k_norm = a.q_norm


def no_bias(model, names=("q_proj", "k_proj", "v_proj", "o_proj")):
    for path, m in model.named_modules():
        if path.split(".")[-1] in names and getattr(m, "base_layer", m).bias is not None:
            getattr(m, "base_layer", m).bias = None


def windows(size):
    """Another window in the layers that have one."""
    def change(model):
        model.base_model.model.model.config.sliding_window = size
    return change


def all_sliding(model):
    model.base_model.model.model.config.layer_types = ["sliding_attention"] * 2


def rope(scale, parameters=PLAIN):
    """Other angular velocities: scale(inv_freq)."""
    def change(model):
        rotary = next(m for m in model.modules() if type(m).__name__.endswith("RotaryEmbedding"))
        base = parameters["rope_theta"] ** (-torch.arange(0, 64, 2).float() / 64)
        rotary.inv_freq = scale(base)
        rotary.original_inv_freq = rotary.inv_freq
    return change


def use_rope(flags):
    def change(model):
        for a, flag in zip(attentions(model), flags):
            a.use_rope = flag
    return change


def hard_steps(base):
    """Llama 3's scaling without the smooth part between its two wavelengths."""
    return torch.where(2 * torch.pi / base > ORIGINAL, base / 8, base)


MISTAKES = {
    "llama3": {"scaling_left_out": rope(lambda b: b), "all_stretched": rope(lambda b: b / 8),
               "no_smooth_part": rope(hard_steps)},
    "llama-linear": {"scaling_left_out": rope(lambda b: b), "scaling_twice": rope(lambda b: b / 16),
                     "no_bias": no_bias, "no_o_bias": lambda m: no_bias(m, ("o_proj",))},
    "mistral": {"window_one_short": windows(WINDOW - 1), "window_one_long": windows(WINDOW + 1),
                "no_window": windows(1 << 20)},
    "qwen2": {"no_bias": no_bias, "no_v_bias": lambda m: no_bias(m, ("v_proj",))},
    "qwen2-sliding": {"window_one_short": windows(WINDOW - 1), "no_window": windows(1 << 20),
                      "all_layers_slide": all_sliding},
    "qwen3": {"no_qk_norm": no_qk_norm, "k_normed_as_q": one_norm_for_both},
    "smollm3": {"rope_in_a_no_rope_layer": use_rope([1, 1, 1, 1]), "the_list_reversed": use_rope([0, 0, 0, 1]),
                "no_rope_at_all": use_rope([0, 0, 0, 0])},
}


def rope_factors(parameters):
    """rope_freqs.weight as the converter computes it."""
    base = parameters["rope_theta"] ** (np.arange(0, 64, 2, dtype=np.float32) / 64)
    low, high = ORIGINAL / parameters["low_freq_factor"], ORIGINAL / parameters["high_freq_factor"]
    out = []
    for velocity in 1.0 / base:
        length = 2 * np.pi / velocity
        if length < high:
            out.append(1.0)
        elif length > low:
            out.append(parameters["factor"])
        else:
            smooth = (ORIGINAL / length - parameters["low_freq_factor"]) / (
                parameters["high_freq_factor"] - parameters["low_freq_factor"])
            out.append(1 / ((1 - smooth) / parameters["factor"] + smooth))
    return np.array(out, dtype=np.float32)


def write_gguf(name, model, path):
    config, arch = model.config, FAMILIES[name][2]
    w = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    w.add_block_count(config.num_hidden_layers)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_rope_freq_base(config.rope_parameters["rope_theta"])
    w.add_rope_dimension_count(64)
    w.add_key_length(64)
    w.add_value_length(64)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_vocab_size(config.vocab_size)
    if name == "mistral":
        w.add_sliding_window(WINDOW)
    if name == "llama-linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(LINEAR["factor"])
    if name == "llama3":
        w.add_tensor("rope_freqs.weight", rope_factors(LLAMA3))
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    permuted = arch in (gguf.MODEL_ARCH.LLAMA, gguf.MODEL_ARCH.SMOLLM3)
    for path_, t in model.state_dict().items():
        if path_ == "lm_head.weight" and config.tie_word_embeddings:
            continue
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if permuted and part in path_:
                t = permute(t, heads) if t.dim() == 2 else permute(t[:, None], heads)[:, 0]
        kind = gguf.GGMLQuantizationType.F32 if t.dim() == 1 else gguf.GGMLQuantizationType.BF16
        target = names.get_name(path_, try_suffixes=(".weight", ".bias"))
        w.add_tensor(target, gguf.quants.quantize(t.contiguous().numpy(), kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def make_one(out, name, seed, log):
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model = random_model(name, seed)
    tensors = {f"plain.{i}": logits(model, ids) for i, ids in enumerate(prompts(seed))}
    if FAMILIES[name][2] is not None:
        write_gguf(name, model, out / "model.gguf")
    model.to(torch.bfloat16).save_pretrained(out / "hub")
    save_bnb(out / "hub", out / "bnb")
    shutil.rmtree(out / "hub")
    tensors |= {f"logits.{i}": logits(load_bnb(out / "bnb"), ids) for i, ids in enumerate(prompts(seed))}
    peft = make_adapter(load_bnb(out / "bnb"), out / "adapter", seed, r=2, lora_alpha=8)
    tensors |= {f"adapter.{i}": logits(peft, ids) for i, ids in enumerate(prompts(seed))}
    docs = documents(seed)
    sums = [nll(peft, ids, mask) for ids, mask in docs]
    (sum(sums) / sum(int(m.sum()) for _, m in docs)).backward()
    tensors |= {f"nll.{i}": s.detach().reshape(1) for i, s in enumerate(sums)}
    short = lambda n: n.replace("base_model.model.", "").replace(".default.weight", "")
    tensors |= {f"grad.{short(n)}": p.grad.clone() for n, p in trainable(peft).items()}
    right = tensors["adapter.3"]
    log(f"{name}: logits' std {right.std():.3f}")
    for mistake, change in MISTAKES[name].items():
        wrong = PeftModel.from_pretrained(load_bnb(out / "bnb"), out / "adapter").eval()
        change(wrong)
        wrong = logits(wrong, prompts(seed)[3])
        log(f"  {mistake}: {float((wrong - right).abs().max() / right.std()):.3g} of the std")
        tensors[f"mistake.{mistake}"] = wrong
    save_file(tensors, out / "golden.safetensors")
    (out / "golden.json").write_text(dumps(dict(
        prompts=[p.tolist() for p in prompts(seed)],
        documents=[dict(ids=i.tolist(), loss_mask=[int(b) for b in m]) for i, m in docs])))


def make(golden, log):
    for seed, name in enumerate(FAMILIES):
        make_one(golden / "families" / name, name, 20 + seed, log)
    size = sum(f.stat().st_size for f in (golden / "families").rglob("*") if f.is_file())
    log(f"{size / 1e6:.2f} MB")
