"""tests/golden/bnb: one small random Llama as transformers and bitsandbytes save it in 4 bits.

NAME/              the directory: config.json and model.safetensors
NAME.safetensors   WEIGHT of every 4-bit linear, decoded by bitsandbytes to bf16; `ids` and transformers' `logits`

    nested    double quantisation, bytes stored as uint8
    plain     scales in f32, bytes stored as bfloat16 (quant_storage, as FSDP wants them)
    wide      double quantisation, bytes stored as float32
    dynamic   half the modules left in 16 bits (llm_int8_skip_modules, Unsloth's "dynamic" 4-bit)

Every in_features is a multiple of 64: bitsandbytes 0.50.2 on a CPU decodes blocks that straddle rows as if each
row began a block. Compute is f32, and Linear4bit's own AVX512-BF16 path is off, as in golden_tiny.py.
"""

import shutil
import tempfile
from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import golden_tiny

SHAPE = dict(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, rope_theta=10000.0)
VARIANTS = {
    "nested": (dict(bnb_4bit_use_double_quant=True), "uint8", None),
    "plain": (dict(bnb_4bit_use_double_quant=False), "bfloat16", None),
    "wide": (dict(bnb_4bit_use_double_quant=True), "float32", None),
    "dynamic": (dict(bnb_4bit_use_double_quant=True), "uint8", ["lm_head", "self_attn.k_proj", "model.layers.0.mlp"]),
}


def make(golden, log):
    out = golden / "bnb"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    vocab, golden_tiny.VOCAB = golden_tiny.VOCAB, SHAPE["vocab_size"]
    shape = {k: v for k, v in SHAPE.items() if k != "vocab_size"}
    model = golden_tiny.random_llama(shape, 77)
    golden_tiny.VOCAB = vocab
    ids = torch.randint(3, SHAPE["vocab_size"], (19,), generator=torch.Generator().manual_seed(5)).int()
    with tempfile.TemporaryDirectory() as scratch:
        hub = Path(scratch)
        model.save_pretrained(hub)
        for name, (options, storage, skip) in VARIANTS.items():
            quantization = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32,
                bnb_4bit_quant_storage=storage, llm_int8_skip_modules=skip, **options)
            saved = AutoModelForCausalLM.from_pretrained(hub, quantization_config=quantization, dtype=torch.float32)
            saved.save_pretrained(out / name)
            trim(out / name)
            save_file(decoded(out / name, ids, log), out / f"{name}.safetensors")


def trim(directory):
    """Floats that are exact in bf16 become bf16; nothing of the machine that made them is left."""
    tensors = load_file(directory / "model.safetensors")
    for name, t in tensors.items():
        kept = not any(f"{name}.absmax" == other for other in tensors)
        if t.dtype == torch.float32 and name.endswith("weight") and kept:
            assert (t.bfloat16().float() == t).all(), name
            tensors[name] = t.bfloat16()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    golden_tiny.relative_config(directory)


def decoded(directory, ids, log):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    out = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.compute_dtype, module.compute_type_is_set = torch.float32, True
            state = module.weight.quant_state
            state.dtype = torch.bfloat16
            out[f"{name}.weight"] = dequantize_4bit(module.weight.data, state).contiguous()
            state.dtype = torch.float32
    for p in model.parameters():
        # The packed bytes may be labelled as floats.
        if p.is_floating_point() and p.__class__.__name__ != "Params4bit":
            p.data = p.data.float()
    log(f"  {directory.name}: {len(out)} linears in 4 bits, of {7 * model.config.num_hidden_layers}")
    return out | {"ids": ids, "logits": golden_tiny.logits(model.eval(), ids)}
