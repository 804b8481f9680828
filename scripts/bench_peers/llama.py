"""Prefill and decode in llama.cpp (through llama-cpp-python's C API), timed. Prints one JSON line.

    python scripts/bench_peers/llama.py MODEL.gguf --rows 32 --prompt 128 --new 32

Every row is a sequence of its own; llama_decode takes all of them in one batch, as llama.cpp's own
llama-batched-bench does: prompts first (logits of the last token only), then a token of every row at
a time, chosen greedily.

The package's llama_cpp/lib may be its own build or any of the same release, also one that has a library for
every kind of processor (libggml-cpu-*.so): the best for this one is loaded. `system` in the result says what
it uses.
"""

import argparse
import ctypes
import random
import time
from pathlib import Path
from statistics import median

import llama_cpp as api
from common import report
from llama_cpp import _ggml


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--flash", choices=["auto", "off", "on"], default="auto")
    options = parser.parse_args()
    rows, prompt, new = options.rows, options.prompt, options.new

    quiet = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(quiet, ctypes.c_void_p(0))
    api.llama_backend_init()
    folder = str(Path(_ggml.__file__).parent / "lib").encode()
    load_all = _ggml.libggml.ggml_backend_load_all_from_path
    load_all.argtypes = [ctypes.c_char_p]
    load_all(folder)
    model = api.llama_model_load_from_file(options.gguf.encode(), api.llama_model_default_params())
    vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    params = api.llama_context_default_params()
    params.n_ctx = rows * (prompt + new + 8)
    params.n_batch = max(512, rows * prompt)
    params.n_seq_max = rows
    params.kv_unified = False
    params.n_threads = params.n_threads_batch = options.threads
    params.flash_attn_type = {"auto": -1, "off": 0, "on": 1}[options.flash]
    context = api.llama_init_from_model(model, params)
    batch = api.llama_batch_init(rows * prompt, 0, 1)
    random.seed(0)
    prompts = [[random.randrange(vocab) for _ in range(prompt)] for _ in range(rows)]

    def add(token, position, row, logits):
        i = batch.n_tokens
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
        batch.seq_id[i][0], batch.logits[i] = row, logits
        batch.n_tokens = i + 1

    def decode():
        status = api.llama_decode(context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode gives {status}")

    # The greedy choice by llama.cpp's own sampler, so that Python does not scan the vocabulary.
    greedy = api.llama_sampler_init_greedy()

    def once(count):
        api.llama_memory_clear(api.llama_get_memory(context), True)
        batch.n_tokens = 0
        for row, tokens in enumerate(prompts):
            for position, token in enumerate(tokens):
                add(token, position, row, position == prompt - 1)
        last = [(row + 1) * prompt - 1 for row in range(rows)]
        start = time.perf_counter()
        decode()
        chosen = [api.llama_sampler_sample(greedy, context, i) for i in last]
        middle = time.perf_counter()
        for step in range(count):
            batch.n_tokens = 0
            for row, token in enumerate(chosen):
                add(token, prompt + step, row, True)
            decode()
            chosen = [api.llama_sampler_sample(greedy, context, i) for i in range(rows)]
        return middle - start, time.perf_counter() - middle

    once(4)
    runs = [once(new) for _ in range(options.repeats)]
    report(
        prefill_tok_s=rows * prompt / median(prefill for prefill, _ in runs),
        decode_tok_s=rows * new / median(decode for _, decode in runs),
        system=api.llama_print_system_info().decode(),
    )


if __name__ == "__main__":
    main()
