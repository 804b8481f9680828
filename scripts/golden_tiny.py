"""tests/golden/tiny, tied and wide: three small random Llamas. wide has heads of 64, as GPU kernels take.

DIR/bnb          the model as transformers and bitsandbytes save it: NF4, double quantisation
DIR/golden.json  prompts, documents with loss masks, losses, the training run
DIR/forward.safetensors    logits.N of prompt N without an adapter
tiny/hub, tiny/tiny.gguf   the same weights in bf16 before quantisation, both ways in
tiny/adapter-*   adapters as PEFT saves them: r 8 alpha 16, r 5 rsLoRA, and what training made
tiny/adapter-*.safetensors logits.N with it, nll.N per document, grad.MODULE.lora_A / lora_B
wide/adapter-*   as tiny's, with logits.N alone
tiny/mistakes.safetensors  logits of prompt 3 with adapter-r8 under planted mistakes

Attention is peaked (q and k have gain 2) and logits have a standard deviation above 1. Compute is
f32: Linear4bit's own AVX512-BF16 inference path, which rounds to bf16, is switched off.
"""

import json
import math
import os
import shutil

import gguf
import numpy as np
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

import nf4_rule as rule
from tiny_tokenizer import tiny_tokenizer, write_gguf_tokenizer

VOCAB = 279
PROMPT_LENGTHS = (1, 7, 19, 33)
SHAPES = {
    "tiny": dict(hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, head_dim=16, tie_word_embeddings=False, rope_theta=10000.0),
    "tied": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
                 num_key_value_heads=1, head_dim=32, tie_word_embeddings=True, rope_theta=500.0),
    "wide": dict(hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, head_dim=64, tie_word_embeddings=False, rope_theta=10000.0),
}
RUN = dict(lr=5e-3, weight_decay=0.1, betas=[0.9, 0.999], eps=1e-8, max_grad_norm=1.0, steps=20,
           warmup_steps=3, schedule="cosine", micro_batches=[[0, 1, 2], [3, 4, 5]])


def random_llama(shape, seed):
    """Every weight is exact in bf16."""
    shape = dict(shape)
    rope = {"rope_type": "default", "rope_theta": shape.pop("rope_theta")}
    config = LlamaConfig(vocab_size=VOCAB, max_position_embeddings=128, rms_norm_eps=1e-5, rope_parameters=rope,
                         bos_token_id=1, eos_token_id=2, pad_token_id=2, attn_implementation="eager", **shape)
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    gains = {"q_proj": 2.0, "k_proj": 2.0, "gate_proj": 1.5, "up_proj": 1.5, "lm_head": 2.0}
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            module = name.split(".")[-2]
            if "norm" in name:
                p.copy_(1 + 0.25 * noise)
            elif module == "embed_tokens":
                p.copy_(noise * (0.25 if config.tie_word_embeddings else 1.0))
            else:
                p.copy_(noise * gains.get(module, 1.0) / p.shape[1] ** 0.5)
            p.copy_(p.bfloat16().float())
    return model.eval()


def relative_config(directory):
    """No path of the machine that made it, and only what a reader needs."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    config["dtype"] = "bfloat16"
    path.write_text(json.dumps(config, indent=2) + "\n")
    (directory / "generation_config.json").unlink(missing_ok=True)


def save_bnb(hub, out):
    """Quantised from f32, so that bitsandbytes' backward decodes in f32 as its forward does."""
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                      bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(hub, quantization_config=quantization, dtype=torch.float32)
    model.save_pretrained(out)
    tensors = load_file(out / "model.safetensors")
    for name, t in tensors.items():
        if t.dtype == torch.float32 and name.endswith((".weight", "norm.weight")) and ".weight." not in name:
            assert (t.bfloat16().float() == t).all(), name
            tensors[name] = t.bfloat16()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    relative_config(out)


def load_bnb(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    return plain_f32(model)


def plain_f32(model):
    linears = [m for m in model.modules() if isinstance(m, Linear4bit)]
    assert len(linears) == 7 * model.config.num_hidden_layers
    for m in linears:
        m.support_avx512bf16_for_cpu = False
        m.compute_dtype, m.compute_type_is_set = torch.float32, True
        assert m.weight.quant_state.dtype == torch.float32
    # from_pretrained ignores `dtype` for a pre-quantised directory and keeps the file's bf16.
    for p in model.parameters():
        if p.is_floating_point():
            p.data = p.data.float()
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    return model.eval()


def decoded(directory):
    """The state dict of a plain f32 model with the decoded weights: our own reading of the bytes."""
    tensors = load_file(directory / "model.safetensors")
    out = {}
    for name, t in tensors.items():
        if ".weight." in name:
            continue
        if t.dtype == torch.uint8:
            state = json.loads(bytes(tensors[f"{name}.quant_state.bitsandbytes__nf4"].numpy()))
            n = math.prod(state["shape"])
            get = lambda key: tensors[f"{name}.{key}"].numpy()
            absmax = rule.nested_absmax(get("absmax"), get("nested_absmax"), state["nested_offset"],
                                        get("nested_quant_map"))
            values = rule.decode(rule.unpack(t.numpy(), n), absmax).reshape(state["shape"])
            t = torch.from_numpy(values)
        out[name] = t.float()
    return out


def twin(directory, shape):
    model = random_llama(shape, 0)
    missing, unexpected = model.load_state_dict(decoded(directory), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model


def prompts(seed):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB, (n,), generator=g) for n in PROMPT_LENGTHS]


def documents(seed):
    """(ids, loss mask): mask[t] means that token t is predicted, from t - 1; it begins within."""
    g = torch.Generator().manual_seed(seed)
    out = []
    for length, start in ((12, 5), (25, 9), (9, 1), (31, 16), (6, 4), (18, 7)):
        ids = torch.randint(3, VOCAB, (length,), generator=g)
        mask = torch.zeros(length, dtype=torch.bool)
        mask[start:] = True
        if length == 31:
            mask[22:25] = False  # a turn of the user in between
        out.append((ids, mask))
    return out


def logits(model, ids, **kwargs):
    with torch.no_grad():
        return model(input_ids=ids[None], use_cache=False, **kwargs).logits[0].float().contiguous()


def nll(model, ids, mask):
    """Summed over the document's loss tokens."""
    out = model(input_ids=ids[None], use_cache=False).logits[0].float()
    return torch.nn.functional.cross_entropy(out[:-1][mask[1:]], ids[1:][mask[1:]], reduction="sum")


def make_adapter(model, out, seed, **config):
    """An adapter with B not zero, as PEFT saves it."""
    peft = get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **config))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in peft.named_parameters():
            if "lora_A" in name:
                bound = p.shape[1] ** -0.5
                p.copy_((torch.rand(p.shape, generator=g) * 2 - 1) * bound)
            elif "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=g) * 0.15)
    save_adapter(peft, out)
    return peft.eval()


def save_adapter(peft, out):
    peft.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    path = out / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "tiny"
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def trainable(peft):
    return {n: p for n, p in peft.named_parameters() if p.requires_grad}


def gradient_golden(peft, base, prompts_, docs, out, log):
    """Logits and gradients of the mean loss over all loss tokens of all documents."""
    tensors = {f"logits.{i}": logits(peft, ids) for i, ids in enumerate(prompts_)}
    moved = (tensors["logits.3"] - base["logits.3"]).std() / base["logits.3"].std()
    params = trainable(peft)
    peft.zero_grad()
    sums = [nll(peft, ids, mask) for ids, mask in docs]
    (sum(sums) / sum(int(m.sum()) for _, m in docs)).backward()
    for i, s in enumerate(sums):
        tensors[f"nll.{i}"] = s.detach().reshape(1)
    short = lambda n: n.replace("base_model.model.", "").replace(".default.weight", "")
    grads = {f"grad.{short(n)}": p.grad.clone() for n, p in params.items()}
    norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads.values()))
    log(f"  {out.name}: the adapter moves logits by {moved:.2f} of their std; gradient norm {norm:.4f}")
    save_file(tensors | grads, out)
    return grads


def learning_rate(k):
    if k < RUN["warmup_steps"]:
        return RUN["lr"] * (k + 1) / RUN["warmup_steps"]
    done = (k - RUN["warmup_steps"]) / (RUN["steps"] - RUN["warmup_steps"])
    return RUN["lr"] * 0.5 * (1 + math.cos(math.pi * done))


def train(peft, docs, mistake=""):
    """The run of RUN; `mistake` plants one. Returns per step loss, learning rate, gradient norm."""
    params = list(trainable(peft).values())
    decay = 0.0 if mistake == "no_weight_decay" else RUN["weight_decay"]
    clip = 1e9 if mistake == "no_clip" else RUN["max_grad_norm"]
    optimizer = torch.optim.AdamW(params, lr=RUN["lr"], weight_decay=decay, betas=tuple(RUN["betas"]),
                                  eps=RUN["eps"], foreach=False)
    tokens = sum(int(m.sum()) for _, m in docs)
    rows = []
    for k in range(RUN["steps"]):
        lr = learning_rate(max(k - 1, 0) if mistake == "schedule_one_late" else k)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss = 0.0
        for batch in RUN["micro_batches"]:
            if mistake == "mean_per_micro_batch":
                here = sum(int(docs[i][1].sum()) for i in batch) * len(RUN["micro_batches"])
            else:
                here = tokens
            part = sum(nll(peft, *docs[i]) for i in batch) / here
            part.backward()
            loss += float(part.detach().double())
        norm = float(torch.nn.utils.clip_grad_norm_(params, clip, foreach=False))
        optimizer.step()
        rows.append(dict(loss=loss, lr=lr, grad_norm=norm))
    return rows


def additive(seen):
    """An attention mask for transformers: 0 where a token is seen."""
    return torch.zeros(1, 1, *seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)


def interleaved(q, k, cos, sin, unsqueeze_dim=1):
    """The wrong rope for Hugging Face's order: neighbouring pairs turn, not halves."""
    cos = cos[..., : cos.shape[-1] // 2].unsqueeze(unsqueeze_dim)
    sin = sin[..., : sin.shape[-1] // 2].unsqueeze(unsqueeze_dim)

    def turn(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)

    return turn(q), turn(k)


def planted_logits(base_twin, adapter, ids, log):
    """Name -> logits with one thing wrong; the plain twin with the adapter is the right one."""
    n = ids.numel()
    below = torch.tril(torch.ones(n, n, dtype=torch.bool))
    ahead = torch.tril(torch.ones(n, n, dtype=torch.bool), 1)
    short = torch.tril(torch.ones(n, n, dtype=torch.bool), -1)
    short[0, 0] = True
    peft = PeftModel.from_pretrained(base_twin, adapter).eval()
    out = {"right": logits(peft, ids)}
    again = (logits(peft, ids, attention_mask=additive(below)) - out["right"]).abs().max()
    assert again < 1e-4 * out["right"].std(), again
    out["mask_one_ahead"] = logits(peft, ids, attention_mask=additive(ahead))
    out["mask_one_short"] = logits(peft, ids, attention_mask=additive(short))

    right = modeling_llama.apply_rotary_pos_emb
    modeling_llama.apply_rotary_pos_emb = interleaved
    out["rope_interleaved"] = logits(peft, ids)
    modeling_llama.apply_rotary_pos_emb = right

    attentions = [m for m in peft.modules() if isinstance(m, modeling_llama.LlamaAttention)]
    for a in attentions:
        a.scaling = 1.0
    out["attention_unscaled"] = logits(peft, ids)
    for a in attentions:
        a.scaling = a.head_dim**-0.5
    loras = [m for m in peft.modules() if hasattr(m, "scaling") and isinstance(m.scaling, dict)]
    for m in loras:
        scale, m.scaling["default"] = m.scaling["default"], 1.0
    out["lora_unscaled"] = logits(peft, ids)
    for m in loras:
        m.scaling["default"] = scale
    config = base_twin.config
    for a in attentions:
        for p, heads in ((a.q_proj, config.num_attention_heads), (a.k_proj, config.num_key_value_heads)):
            p.base_layer.weight.data = permute(p.base_layer.weight.data, heads)
    out["qk_permuted"] = logits(peft, ids)
    std = out["right"].std()
    for name, x in out.items():
        log(f"  planted {name}: {float((x - out['right']).abs().max() / std):.3g} of the std")
    return out


def permute(w, heads):
    """llama.cpp's order of q and k rows: neighbouring pairs where Hugging Face has halves."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(w.shape).contiguous()


def write_gguf(model, tokenizer, path):
    config = model.config
    w = gguf.GGUFWriter(path, "llama")
    w.add_name("tiny")
    w.add_block_count(config.num_hidden_layers)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_rope_freq_base(config.rope_parameters["rope_theta"])
    w.add_rope_dimension_count(config.head_dim)
    w.add_key_length(config.head_dim)
    w.add_value_length(config.head_dim)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_vocab_size(config.vocab_size)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    write_gguf_tokenizer(w, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, t in model.state_dict().items():
        if name.endswith("q_proj.weight"):
            t = permute(t, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            t = permute(t, config.num_key_value_heads)
        target = names.get_name(name, try_suffixes=(".weight",))
        kind = gguf.GGMLQuantizationType.BF16
        # Norms are F32 as llama.cpp's converter writes them, and one matrix, so that both kinds occur.
        if t.dim() == 1 or name.endswith("layers.0.self_attn.q_proj.weight"):
            kind = gguf.GGMLQuantizationType.F32
        w.add_tensor(target, gguf.quants.quantize(t.numpy(), kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def make_one(golden, name, seed, log):
    out = golden / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model, tokenizer = random_llama(SHAPES[name], seed), tiny_tokenizer(VOCAB)
    model.to(torch.bfloat16).save_pretrained(out / "hub")
    relative_config(out / "hub")
    tokenizer.save_pretrained(out / "hub")
    model.float()
    save_bnb(out / "hub", out / "bnb")
    tokenizer.save_pretrained(out / "bnb")
    if name == "tiny":
        write_gguf(model, tokenizer, out / "tiny.gguf")
    else:
        shutil.rmtree(out / "hub")
    bnb, plain = load_bnb(out / "bnb"), twin(out / "bnb", SHAPES[name])
    tensors = {f"logits.{i}": logits(bnb, ids) for i, ids in enumerate(prompts(seed))}
    save_file(tensors, out / "forward.safetensors")
    last = tensors["logits.3"]
    apart = max(float((logits(plain, ids) - tensors[f"logits.{i}"]).abs().max()) for i, ids in enumerate(prompts(seed)))
    log(f"{name}: logits' std {last.std():.3f}; the plain f32 twin is {apart / float(last.std()):.2g} of it away; "
        f"largest attention weight {peak(plain, prompts(seed)[3]):.2f} on average")
    return bnb


def peak(model, ids):
    with torch.no_grad():
        maps = model(input_ids=ids[None], output_attentions=True).attentions
    return float(torch.stack([m.max(dim=-1).values[..., 5:].mean() for m in maps]).mean())


ADAPTERS = (("adapter-r8", dict(r=8, lora_alpha=16)),
            ("adapter-r5-rslora", dict(r=5, lora_alpha=10, use_rslora=True)))


def make_wide(golden, log):
    seed, out = 11, golden / "wide"
    make_one(golden, "wide", seed, log)
    base = load_file(out / "forward.safetensors")["logits.3"]
    for name, config in ADAPTERS:
        peft = make_adapter(load_bnb(out / "bnb"), out / name, seed, **config)
        tensors = {f"logits.{i}": logits(peft, ids) for i, ids in enumerate(prompts(seed))}
        log(f"  {name} moves logits by {(tensors['logits.3'] - base).std() / base.std():.2f} of their std")
        save_file(tensors, out / f"{name}.safetensors")
    (out / "golden.json").write_text(dumps(dict(prompts=[p.tolist() for p in prompts(seed)])))


def make(golden, log):
    make_one(golden, "tied", 7, log)
    (golden / "tied/golden.json").write_text(dumps(dict(prompts=[p.tolist() for p in prompts(7)])))
    seed, out = 3, golden / "tiny"
    make_one(golden, "tiny", seed, log)
    base, docs = load_file(out / "forward.safetensors"), documents(seed)
    grads = {}
    for name, config in ADAPTERS:
        peft = make_adapter(load_bnb(out / "bnb"), out / name, seed, **config)
        grads[name] = gradient_golden(peft, base, prompts(seed), docs, out / f"{name}.safetensors", log)

    planted = planted_logits(twin(out / "bnb", SHAPES["tiny"]), out / "adapter-r8", prompts(seed)[3], log)
    save_file({k: v for k, v in planted.items() if k != "right"}, out / "mistakes.safetensors")

    def loaded():
        return PeftModel.from_pretrained(load_bnb(out / "bnb"), out / "adapter-r8", is_trainable=True)

    peft = loaded()
    assert all(p.dtype == torch.float32 for p in trainable(peft).values())
    rows = train(peft, docs)
    save_adapter(peft, out / "adapter-r8-trained")
    wrong = {}
    for mistake in ("no_weight_decay", "no_clip", "schedule_one_late", "mean_per_micro_batch"):
        wrong[mistake] = [row["loss"] for row in train(loaded(), docs, mistake)]
        apart = max(abs(a - b["loss"]) / b["loss"] for a, b in zip(wrong[mistake], rows))
        log(f"  planted {mistake}: losses up to {apart:.3g} apart, relative")
    log(f"  20 losses {rows[0]['loss']:.4f} .. {rows[-1]['loss']:.4f}, gradient norms "
        f"{rows[0]['grad_norm']:.2f} .. {rows[-1]['grad_norm']:.2f}")
    (out / "golden.json").write_text(dumps(dict(
        prompts=[p.tolist() for p in prompts(seed)],
        documents=[dict(ids=i.tolist(), loss_mask=[int(b) for b in m]) for i, m in docs],
        run=dict(RUN, adapter="adapter-r8", after="adapter-r8-trained"),
        training=rows,
        mistaken_losses=wrong,
    )))
    size = sum(f.stat().st_size for f in golden.rglob("*") if f.is_file())
    log(f"{size / 1e6:.2f} MB in {golden.name}/")


def dumps(value):
    """JSON with one short list a line."""
    lines = [f'"{k}": ' + (("[\n  " + ",\n  ".join(json.dumps(x) for x in v) + "\n]") if isinstance(v, list)
                           else json.dumps(v)) for k, v in value.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
