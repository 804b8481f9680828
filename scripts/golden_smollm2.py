"""tests/golden/smollm2.safetensors: logits of SmolLM2-135M-Instruct from its GGUF, in f32.

The GGUF's blocks are decoded by the `gguf` package and rounded to bf16, q and k rows put back in
Hugging Face's order, the linears sent through NF4 with double quantisation by the CUDA rule
(nf4_rule.py, because bitsandbytes' CPU build follows another one), and all of it put into a plain f32
transformers model. That the rows are in the right order is shown by the model itself: the perplexity of
a sentence and a greedy answer, with the rows put back and without.

Keys: input_ids [T], vocab_ids [512], logits [T, 512], std [1] (over all logits), argmax [T],
mistake.NAME [4, 512]: the last four rows with a planted mistake.
"""

import gguf
import numpy as np
import torch
from bitsandbytes.functional import create_dynamic_map
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

import nf4_rule as rule
from golden_tiny import additive, interleaved, permute

SENTENCE = "The capital of France is Paris, and the capital of Italy is Rome. Water boils at 100 degrees Celsius."
CHAT = [{"role": "user", "content": "What is the capital of Japan? Answer in one sentence."}]


def config_of(reader):
    get = lambda key: reader.fields[f"llama.{key}"].contents()
    return LlamaConfig(
        vocab_size=get("vocab_size"), hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"), num_hidden_layers=get("block_count"),
        num_attention_heads=get("attention.head_count"), num_key_value_heads=get("attention.head_count_kv"),
        max_position_embeddings=get("context_length"), rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": get("rope.freq_base")},
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, attn_implementation="eager")


def unpermute(w, heads):
    """Row 2i + j of a head in the file is row j * d/2 + i."""
    return w.reshape(heads, w.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)


def state_dict(reader, config, order=True, nf4=True):
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    tensors = {t.name: t for t in reader.tensors}
    table = create_dynamic_map().numpy()
    out = {}
    for name in LlamaForCausalLM(config).state_dict():
        if name == "lm_head.weight":
            continue
        t = tensors[names.get_name(name, try_suffixes=(".weight",))]
        w = rule.round_bf16(gguf.quants.dequantize(t.data, t.tensor_type))
        if order and "q_proj" in name:
            w = unpermute(w, config.num_attention_heads)
        if order and "k_proj" in name:
            w = unpermute(w, config.num_key_value_heads)
        if nf4 and "_proj" in name:
            w = rule.through_nf4(w, table)
        out[name] = torch.from_numpy(np.ascontiguousarray(w))
    return out


def perplexity(model, ids):
    with torch.no_grad():
        return float(model(input_ids=ids[None], labels=ids[None]).loss.exp())


def planted(model, ids):
    """Logits with one thing wrong. Leaves the model with q and k permuted."""
    n = ids.numel()

    def run(**kwargs):
        with torch.no_grad():
            return model(input_ids=ids[None], **kwargs).logits[0]

    out = {"mask_one_ahead": run(attention_mask=additive(torch.tril(torch.ones(n, n, dtype=torch.bool), 1)))}
    right = modeling_llama.apply_rotary_pos_emb
    modeling_llama.apply_rotary_pos_emb = interleaved
    out["rope_interleaved"] = run()
    modeling_llama.apply_rotary_pos_emb = right
    attentions = [layer.self_attn for layer in model.model.layers]
    for a in attentions:
        a.scaling = 1.0
    out["attention_unscaled"] = run()
    for a in attentions:
        a.scaling = a.head_dim**-0.5
        for p, heads in ((a.q_proj, model.config.num_attention_heads), (a.k_proj, model.config.num_key_value_heads)):
            p.weight.data = permute(p.weight.data, heads)
    out["qk_permuted"] = run()
    return out


def make(path, out, log):
    reader = gguf.GGUFReader(path)
    config = config_of(reader)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = LlamaForCausalLM(config).eval()
    sentence = torch.tensor(tokenizer(SENTENCE, add_special_tokens=False).input_ids)

    def load(**how):
        model.load_state_dict(state_dict(reader, config, **how), strict=False)
        model.tie_weights()
        log(f"{how}: perplexity of the sentence {perplexity(model, sentence):.2f}")

    load(order=False, nf4=False)
    load(order=True, nf4=False)
    load(order=True, nf4=True)
    text = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)
    answer = model.generate(ids[None], max_new_tokens=24, do_sample=False, eos_token_id=2, pad_token_id=2)
    log(f"greedy answer: {tokenizer.decode(answer[0, ids.numel():])!r}")
    ids = torch.cat([ids, answer[0, ids.numel():]])
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0]
    mistakes = planted(model, ids)
    for name, wrong in mistakes.items():
        log(f"  planted {name}: {float((wrong - logits).abs().max() / logits.std()):.3g} of the std")
    generator = torch.Generator().manual_seed(1)
    vocab = torch.randperm(config.vocab_size, generator=generator)[:512].sort().values
    log(f"{ids.numel()} tokens, logits' std {logits.std():.3f}")
    save_file({
        "input_ids": ids.to(torch.int32), "vocab_ids": vocab.to(torch.int32),
        "logits": logits[:, vocab].contiguous(), "std": logits.std().reshape(1),
        "argmax": logits.argmax(-1).to(torch.int32),
        **{f"mistake.{name}": wrong[-4:, vocab].contiguous() for name, wrong in mistakes.items()}}, out)
