"""How much memory loading takes: a random Llama in shards, and dayrun watched while it loads it.

    python scripts/load_memory.py make DIR [--layers 24] [--shard-mb 500]   # 121 MB a layer, and 131 MB
    python scripts/load_memory.py run DAYRUN DIR                            # without and with a filled cache

`run` generates one token, and prints the peaks of RssAnon (memory that is dayrun's own), RssFile (pages of
mapped files, which the system takes back when it needs them) and VmHWM (the peak of their sum). Needs numpy to
make, Linux to run. The figures are in docs/LOG.md.
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path

HIDDEN, INNER, VOCAB, KV = 2048, 8192, 32000, 512
TOKENIZER = Path(__file__).resolve().parent.parent / "tests" / "golden" / "tiny" / "hub"


def tensors(layers):
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for i in range(layers):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (HIDDEN,)
        for name, shape in [("self_attn.q_proj", (HIDDEN, HIDDEN)), ("self_attn.k_proj", (KV, HIDDEN)),
                            ("self_attn.v_proj", (KV, HIDDEN)), ("self_attn.o_proj", (HIDDEN, HIDDEN)),
                            ("mlp.gate_proj", (INNER, HIDDEN)), ("mlp.up_proj", (INNER, HIDDEN)),
                            ("mlp.down_proj", (HIDDEN, INNER))]:
            yield f"{layer}{name}.weight", shape
        yield layer + "post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)


def size(shape):
    return 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)


def make(directory, layers, shard_bytes):
    import numpy as np

    random = np.random.default_rng(0)
    directory.mkdir(parents=True)
    shards, room = [[]], shard_bytes
    for name, shape in tensors(layers):
        if size(shape) > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append((name, shape))
        room -= size(shape)
    weight_map = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        header, at = {}, 0
        for name, shape in shard:
            header[name] = dict(dtype="BF16", shape=shape, data_offsets=[at, at + size(shape)])
            at += size(shape)
            weight_map[name] = file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(directory / file, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for _, shape in shard:
                # Any sign and mantissa, exponents of 2^-7 and 2^-5: bf16 numbers around 0.01.
                bits = random.integers(0, 1 << 16, size(shape) // 2, dtype=np.uint16)
                out.write(((bits & 0x817F) | 0x3C00).tobytes())
    index = dict(metadata={}, weight_map=weight_map)
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", vocab_size=VOCAB,
                  hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=layers, num_attention_heads=16,
                  num_key_value_heads=4, head_dim=128, rms_norm_eps=1e-5, rope_theta=10000.0,
                  max_position_embeddings=2048, tie_word_embeddings=True)
    (directory / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, directory)
    total = sum(size(shape) for _, shape in tensors(layers))
    print(f"{total / 1e9:.2f} GB in {len(shards)} shards, the largest tensor {2 * INNER * HIDDEN / 1e6:.0f} MB")


def status(pid):
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = (line.split() for line in lines)
    return {f[0].rstrip(":"): int(f[1]) for f in fields if f and f[0] in ("RssAnon:", "RssFile:", "VmHWM:")}


def watch(binary, directory, cache, what):
    command = [binary, "generate", "--model", directory, "--max-new-tokens", "1", "1 and 1 is"]
    start = time.monotonic()
    child = subprocess.Popen(command, env={**os.environ, "DAYRUN_CACHE": cache}, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    peak = {}
    while child.poll() is None:
        for key, kb in status(child.pid).items():
            peak[key] = max(peak.get(key, 0), kb)
        time.sleep(0.01)
    assert child.returncode == 0, child.returncode
    peaks = ", ".join(f"{key} {kb * 1024 / 1e6:.0f} MB" for key, kb in peak.items())
    print(f"{what}: {time.monotonic() - start:.1f} s, peaks {peaks}")


def run(binary, directory):
    with tempfile.TemporaryDirectory() as cache:
        watch(binary, directory, cache, "quantising")
        files = sum(path.stat().st_size for path in Path(cache).iterdir())
        watch(binary, directory, cache, "from the cache")
        print(f"the NF4 model has {files / 1e6:.0f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("make")
    made.add_argument("directory", type=Path)
    made.add_argument("--layers", type=int, default=24)
    made.add_argument("--shard-mb", type=int, default=500)
    ran = commands.add_parser("run")
    ran.add_argument("binary")
    ran.add_argument("directory")
    args = parser.parse_args()
    if args.command == "make":
        make(args.directory, args.layers, args.shard_mb * 1_000_000)
    else:
        run(args.binary, args.directory)


if __name__ == "__main__":
    main()
