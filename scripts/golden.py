"""Makes the files under tests/golden from transformers, PEFT and bitsandbytes.

    python -m venv VENV && VENV/bin/pip install -r scripts/requirements-golden.txt
    VENV/bin/python scripts/golden.py nf4       # NF4 and double quantisation
    VENV/bin/python scripts/golden.py tiny      # two small random Llamas: logits, gradients, losses
    VENV/bin/python scripts/golden.py wide      # one more with heads of 64, for GPU kernels
    VENV/bin/python scripts/golden.py noise     # gradients under dropout and NEFTune (after tiny)
    VENV/bin/python scripts/golden.py families  # one of every model family
    VENV/bin/python scripts/golden.py adapters  # every kind of LoRA configuration on one of them
    VENV/bin/python scripts/golden.py bnb       # 4-bit directories as bitsandbytes writes them
    VENV/bin/python scripts/golden.py smollm2 PATH.gguf   # logits of SmolLM2-135M-Instruct

Runs on a CPU in a few minutes, from fixed seeds. What it prints (distances of planted mistakes,
quirks of bitsandbytes) is recorded in docs/LOG.md. tests/golden_nf4.rs, golden_model.rs,
golden_families.rs and golden_adapters.rs read the files; CI never runs this script.
"""

import argparse
import os
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # matrices are small; spinning threads cost far more
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TORCHDYNAMO_DISABLE"] = "1"  # bitsandbytes compiles its portable decoder

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("nf4", help="NF4 and double quantisation")
    commands.add_parser("tiny", help="two small random Llamas")
    commands.add_parser("wide", help="a small random Llama with heads of 64")
    commands.add_parser("noise", help="gradients under dropout and NEFTune")
    commands.add_parser("families", help="a small random model of every family")
    commands.add_parser("adapters", help="every kind of LoRA configuration")
    commands.add_parser("bnb", help="4-bit directories as bitsandbytes writes them")
    smollm2 = commands.add_parser("smollm2", help="SmolLM2-135M-Instruct")
    smollm2.add_argument("gguf", type=Path)
    args = parser.parse_args()
    GOLDEN.mkdir(parents=True, exist_ok=True)
    if args.command == "nf4":
        import golden_nf4

        golden_nf4.make(GOLDEN / "nf4.safetensors", print)
    elif args.command == "tiny":
        import golden_tiny

        golden_tiny.make(GOLDEN, print)
    elif args.command == "wide":
        import golden_tiny

        golden_tiny.make_wide(GOLDEN, print)
    elif args.command == "noise":
        import golden_noise

        golden_noise.make(GOLDEN, print)
    elif args.command == "families":
        import golden_families

        golden_families.make(GOLDEN, print)
    elif args.command == "adapters":
        import golden_adapters

        golden_adapters.make(GOLDEN, print)
    elif args.command == "bnb":
        import golden_bnb

        golden_bnb.make(GOLDEN, print)
    else:
        import golden_smollm2

        golden_smollm2.make(args.gguf, GOLDEN / "smollm2.safetensors", print)


if __name__ == "__main__":
    main()
