"""The same work in dayrun and in its peers, alternating in one run: training, ragged rows, generation.

    pip install -r scripts/requirements-golden.txt
    cargo build --release
    python scripts/bench_peers.py SmolLM2-135M-Instruct.Q4_1.gguf --json peers.jsonl

Every measurement is a process of its own (its memory is its own), one at a time; a round runs each
contestant once, in a new order, and a ratio is the median over the rounds of dayrun / peer within the
round, so that a machine which slows down slows both. --under "chrt -f 1" runs each of them under that
command. llama.cpp is measured where --llama-python names a Python with llama-cpp-python, tcmalloc is
preloaded for the tuned peer where it is installed. docs/peers.md says what was found.
"""

import argparse
import json
import math
import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHAPES = [(1, 512), (4, 256), (2, 1024)]
GENERATION = [(1, 512, 64), (32, 128, 32)]
MEDIAN, SIGMA, SHORTEST, LONGEST, DOCUMENTS = 120, 0.8, 20, 800, 400
MICRO_BATCH_TOKENS = 2048
# Attention by which the tuned peer is faster at each shape (docs/peers.md).
TUNED = ["--mode", "tuned", "--attention", "eager"]


def lengths():
    """Document lengths as people have them: log-normal, clipped."""
    rng = random.Random(0)
    draw = lambda: round(rng.lognormvariate(math.log(MEDIAN), SIGMA))
    return [min(LONGEST, max(SHORTEST, draw())) for _ in range(DOCUMENTS)]


def tcmalloc():
    found = sorted(Path("/usr/lib").glob("*/libtcmalloc_minimal.so.4"))
    return {"LD_PRELOAD": str(found[0])} if found else {}


class Bench:
    def __init__(self, options, work):
        self.options, self.work = options, work
        self.folder = options.folder or work / "base"
        self.lengths = work / "lengths.txt"
        self.lengths.write_text("".join(f"{n}\n" for n in lengths()))
        self.out = open(options.json, "a") if options.json else None
        if not Path(self.folder, "config.json").exists():
            subprocess.run([options.python, HERE / "bench_peers/folder.py", options.gguf, self.folder], check=True)

    def peer(self, script, *arguments, env=None):
        command = [self.options.python, HERE / "bench_peers" / script, self.folder, *arguments]
        return command, env or {}

    def dayrun(self, what, *arguments):
        return [self.options.dayrun, "bench", what, "--model", self.options.gguf, *arguments, "--json"], {}

    def measure(self, command, env):
        """The JSON that the process printed last, None where it failed."""
        command = [str(word) for word in shlex.split(self.options.under) + command]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **env}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        print(f"  failed: {shlex.join(command)}\n  {done.stderr.strip()[-400:]}", file=sys.stderr)
        return None

    def rounds(self, title, contestants):
        """Runs every contestant once a round; dayrun's name is "dayrun"."""
        results = {name: [] for name in contestants}
        names = list(contestants)
        for number in range(self.options.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                result = self.measure(*contestants[name])
                results[name].append(result)
                line = {"case": title, "who": name, "round": number, **(result or {"failed": True})}
                if self.out:
                    print(json.dumps(line), file=self.out, flush=True)
        return {name: values for name, values in results.items() if all(values)}


def table(title, results, keys):
    """Prints medians and ratios; returns the ratios by (peer, key)."""
    print(f"\n{title}")
    ratios = {}
    for name, values in results.items():
        cells = [f"{statistics.median(v['rss_gb'] for v in values):5.2f} GB"]
        for key in keys:
            of = [v[key] for v in values]
            cell = f"{key} {statistics.median(of):7.1f} ({min(of):.1f} to {max(of):.1f})"
            if name != "dayrun" and "dayrun" in results:
                ratio = statistics.median(ours[key] / peer for ours, peer in zip(results["dayrun"], of))
                ratios[name, key] = ratio
                cell += f"  dayrun is {ratio:.2f} times as fast"
            elif "peak_fraction" in values[0]:
                cell += f"  {100 * statistics.median(v['peak_fraction'] for v in values):.1f} % of the peak"
            cells.append(cell)
        print(f"  {name:26} " + "   ".join(cells), flush=True)
    return ratios


def train(bench):
    every = {}
    for batch, seq in SHAPES:
        shape = ["--batch", batch, "--seq", seq]
        few = ["--warmup", 1, "--steps", 2] if batch * seq > 1024 else ["--warmup", 1, "--steps", 3]
        results = bench.rounds(f"train {batch}x{seq}", {
            "peer as documented": bench.peer("train.py", "--mode", "documented", *shape, *few),
            "peer, no prepare, no ckpt": bench.peer("train.py", "--mode", "plain", *shape, *few),
            "peer tuned": bench.peer("train.py", *TUNED, *shape, *few, env=tcmalloc()),
            "dayrun": bench.dayrun("train", *shape, "--steps", 3),
        })
        for (name, _), ratio in table(f"Training, {batch}x{seq}", results, ["tok_s"]).items():
            every.setdefault(name, []).append(ratio)
    for name, ratios in every.items():
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        print(f"  geometric mean over {len(ratios)} shapes, dayrun / {name}: {mean:.2f}")


def ragged(bench):
    rows = ["--lengths", bench.lengths, "--batch", 8, "--warmup", 1, "--steps", 2]
    documented, plain = ["--mode", "documented"], ["--mode", "plain"]
    results = bench.rounds("ragged", {
        "peer as documented": bench.peer("train.py", *documented, *rows),
        "peer as documented, grouped": bench.peer("train.py", *documented, "--grouped", *rows),
        "peer, no prepare, no ckpt": bench.peer("train.py", *plain, *rows),
        "peer, no prepare, grouped": bench.peer("train.py", *plain, "--grouped", *rows),
        "peer tuned, grouped": bench.peer("train.py", *TUNED, "--grouped", *rows, env=tcmalloc()),
        "dayrun": bench.dayrun(
            "train", "--lengths", bench.lengths, "--micro-batch-tokens", MICRO_BATCH_TOKENS, "--steps", 3
        ),
    })
    table("Training, ragged rows (real tokens)", results, ["tok_s"])


def generate(bench):
    for rows, prompt, new in GENERATION:
        shape = ["--rows", rows, "--prompt", prompt, "--new", new]
        contestants = {"transformers bf16": bench.peer("generate.py", *shape, env=tcmalloc())}
        if bench.options.llama_python:
            command = [bench.options.llama_python, HERE / "bench_peers/llama.py", bench.options.gguf, *shape]
            contestants["llama.cpp"] = command, {}
        contestants["dayrun"] = bench.dayrun("generate", *shape)
        results = bench.rounds(f"generate {rows} rows", contestants)
        table(f"Generation, {rows} rows, {prompt} + {new} tokens", results, ["prefill_tok_s", "decode_tok_s"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--what", nargs="+", choices=["train", "ragged", "generate"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dayrun", default=HERE.parent / "target/release/dayrun", type=Path)
    parser.add_argument("--python", default=sys.executable, help="with requirements-golden.txt installed")
    parser.add_argument("--llama-python", help="with llama-cpp-python installed")
    parser.add_argument("--folder", help="keeps the base in bf16 there from run to run")
    parser.add_argument("--under", default="", help='a command to measure under, e.g. "chrt -f 1"')
    parser.add_argument("--json", help="appends a line for every measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(options, Path(work))
        for what in options.what or ["train", "ragged", "generate"]:
            {"train": train, "ragged": ragged, "generate": generate}[what](bench)


if __name__ == "__main__":
    main()
