"""Prefill and decode in transformers, timed. Prints one JSON line.

    python scripts/bench_peers/generate.py FOLDER --rows 32 --prompt 128 --new 32

The loop of generate(): a forward over the prompts that computes the last position's logits only, then
one forward a token with the KV cache and the greedy choice. Weights are bf16, or NF4 as bitsandbytes
keeps them for inference (--nf4); --compile compiles the forward of the decode over a static cache.
"""

import argparse
import time
from statistics import median

import torch
from common import report
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, DynamicCache, StaticCache


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--static", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--nf4", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        options.folder,
        dtype=torch.bfloat16,
        attn_implementation=options.attention,
        quantization_config=quantised if options.nf4 else None,
    ).eval()
    shape = (options.rows, options.prompt)
    ids = torch.randint(0, model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    static = options.static or options.compile
    forward = torch.compile(model.forward) if options.compile else model.forward

    @torch.inference_mode()
    def once(new):
        length = options.prompt + options.new + 1
        cache = StaticCache(config=model.config, max_cache_len=length) if static else DynamicCache()
        position = torch.arange(options.prompt)
        start = time.perf_counter()
        out = model(ids, past_key_values=cache, position_ids=position[None], use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        middle = time.perf_counter()
        for i in range(new):
            at = torch.tensor([[options.prompt + i]])
            out = forward(token, past_key_values=cache, position_ids=at, use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1].argmax(-1, keepdim=True)
        return middle - start, time.perf_counter() - middle

    once(4)
    runs = [once(options.new) for _ in range(options.repeats)]
    report(
        prefill_tok_s=options.rows * options.prompt / median(prefill for prefill, _ in runs),
        decode_tok_s=options.rows * options.new / median(decode for _, decode in runs),
    )


if __name__ == "__main__":
    main()
