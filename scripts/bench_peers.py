"""The same work in dayrun and in its peers, alternating in one run: training, ragged rows, generation.

    pip install -r scripts/requirements-golden.txt
    cargo build --release
    python scripts/bench_peers.py SmolLM2-135M-Instruct.Q4_1.gguf --json peers.jsonl

Every measurement is a process of its own (its memory is its own), one at a time; a round runs each
contestant once, in a new order, and a ratio is the median over the rounds of dayrun / peer within the
round, so that a machine which slows down slows both. --under "chrt -f 1" runs each of them under that
command. llama.cpp is measured where --llama-python names a Python with llama-cpp-python, tcmalloc is
preloaded for the tuned peer where it is installed. torch.compile is warmed up outside of the measured
runs; its cache and the base in bf16 stay in --folder. docs/peers.md says what was found.
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
# Which attention is faster for the tuned peer depends on shape and processor (docs/peers.md), so that both run.
ATTENTION = ["sdpa", "eager"]
TUNED_RAGGED = ["--mode", "tuned", "--attention", "sdpa"]


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
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self.folder / "inductor")
        os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
        self.lengths = work / "lengths.txt"
        self.lengths.write_text("".join(f"{n}\n" for n in lengths()))
        self.out = open(options.json, "a") if options.json else None
        if not Path(self.folder, "config.json").exists():
            subprocess.run([options.python, HERE / "bench_peers/folder.py", options.gguf, self.folder], check=True)

    def peer(self, script, *arguments, env=None):
        command = [self.options.python, HERE / "bench_peers" / script, self.folder, *arguments]
        return command, env or {}

    def tuned(self, attention, batch, seq):
        """The words of the tuned peer, compiled unless --no-compile forbids what --folder lacks."""
        words = ["--mode", "tuned", "--attention", attention, "--batch", batch, "--seq", seq]
        if not self.wanted(f"peer tuned, {attention}"):
            return words
        done = self.folder / "inductor" / f"done-{attention}-{batch}x{seq}"
        compiled = [*words, "--compile", "both"]
        if not done.exists() and not self.options.no_compile:
            command, env = self.peer("train.py", *compiled, "--warmup", 1, "--steps", 1, env=tcmalloc())
            if self.measure(command, env, under=""):
                done.touch()
        print(f"  the tuned peer, {attention}, is {'' if done.exists() else 'not '}compiled", flush=True)
        return compiled if done.exists() else words

    def wanted(self, name):
        return not self.options.only or any(part in name for part in self.options.only)

    def dayrun(self, what, *arguments):
        return [self.options.dayrun, "bench", what, "--model", self.options.gguf, *arguments, "--json"], {}

    def measure(self, command, env, under=None):
        """The JSON that the process printed last, None where it failed."""
        under = self.options.under if under is None else under
        command = [str(word) for word in shlex.split(under) + command]
        env = {**os.environ, **env}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        print(f"  failed: {shlex.join(command)}\n  {done.stderr.strip()[-400:]}", file=sys.stderr)
        return None

    def rounds(self, title, contestants):
        """Runs every contestant once a round; dayrun's name is "dayrun"."""
        names = [name for name in contestants if self.wanted(name)]
        results = {name: [] for name in names}
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
        cells = [f"{statistics.median(v.get('rss_gb') or math.nan for v in values):5.2f} GB"]
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
        if bench.options.shapes and f"{batch}x{seq}" not in bench.options.shapes:
            continue
        shape = ["--batch", batch, "--seq", seq]
        few = ["--warmup", 1, "--steps", max(1, 2048 // (batch * seq))]
        results = bench.rounds(f"train {batch}x{seq}", {
            "peer as documented": bench.peer("train.py", "--mode", "documented", *shape, *few),
            "peer without preparation": bench.peer("train.py", "--mode", "plain", *shape, *few),
            **{
                f"peer tuned, {attention}": bench.peer(
                    "train.py", *bench.tuned(attention, batch, seq), *few, env=tcmalloc()
                )
                for attention in ATTENTION
            },
            "dayrun": bench.dayrun("train", *shape, "--warmup", 1, "--steps", 3),
        })
        ratios = {name: r for (name, _), r in table(f"Training, {batch}x{seq}", results, ["tok_s"]).items()}
        tuned = [ratio for name, ratio in ratios.items() if name.startswith("peer tuned")]
        if tuned:
            ratios["the faster peer tuned"] = min(tuned)
        for name, ratio in ratios.items():
            every.setdefault(name, []).append(ratio)
    for name, ratios in every.items():
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        print(f"  geometric mean over {len(ratios)} shapes, dayrun / {name}: {mean:.2f}")


def ragged(bench):
    rows = ["--lengths", bench.lengths, "--batch", 8, "--warmup", 1]
    documented, plain = ["--mode", "documented"], ["--mode", "plain"]
    results = bench.rounds("ragged", {
        "peer as documented": bench.peer("train.py", *documented, *rows),
        "peer as documented, grouped": bench.peer("train.py", *documented, "--grouped", *rows),
        "peer without preparation": bench.peer("train.py", *plain, *rows),
        "peer tuned, grouped": bench.peer("train.py", *TUNED_RAGGED, "--grouped", *rows, env=tcmalloc()),
        "dayrun": bench.dayrun(
            "train", "--lengths", bench.lengths, "--micro-batch-tokens", MICRO_BATCH_TOKENS, "--steps", 5
        ),
    })
    table("Training, ragged rows (real tokens)", results, ["tok_s"])


def generate(bench):
    for rows, prompt, new in GENERATION:
        shape = ["--rows", rows, "--prompt", prompt, "--new", new]
        contestants = {"transformers bf16": bench.peer("generate.py", "--static", *shape, env=tcmalloc())}
        if bench.options.llama_python:
            command = [bench.options.llama_python, HERE / "bench_peers/llama.py", bench.options.gguf, *shape]
            contestants["llama.cpp"] = command, {}
        contestants["dayrun"] = bench.dayrun("generate", *shape, "--rounds", 2)
        results = bench.rounds(f"generate {rows} rows", contestants)
        table(f"Generation, {rows} rows, {prompt} + {new} tokens", results, ["prefill_tok_s", "decode_tok_s"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--what", nargs="+", choices=["train", "ragged", "generate"])
    parser.add_argument("--shapes", nargs="+", help="of training, BATCHxSEQ each; all three otherwise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dayrun", default=HERE.parent / "target/release/dayrun", type=Path)
    parser.add_argument("--python", default=sys.executable, help="with requirements-golden.txt installed")
    parser.add_argument("--llama-python", help="with llama-cpp-python installed")
    parser.add_argument("--only", nargs="+", help="contestants whose names have one of these parts")
    parser.add_argument("--no-compile", action="store_true", help="compile nothing that --folder lacks")
    parser.add_argument("--folder", type=Path, help="keeps the base in bf16 there from run to run")
    parser.add_argument("--under", default="", help='a command to measure under, e.g. "chrt -f 1"')
    parser.add_argument("--json", help="appends a line for every measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(options, Path(work))
        for what in options.what or ["train", "ragged", "generate"]:
            {"train": train, "ragged": ragged, "generate": generate}[what](bench)


if __name__ == "__main__":
    main()
