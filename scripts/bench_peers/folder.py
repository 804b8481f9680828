"""The GGUF's model as a transformers folder in bf16: what every peer loads.

    python scripts/bench_peers/folder.py MODEL.gguf FOLDER
"""

import sys
from pathlib import Path

import gguf
import torch
from transformers import LlamaForCausalLM

sys.path.append(str(Path(__file__).resolve().parents[1]))
from golden_smollm2 import config_of, state_dict  # noqa: E402


def main():
    source, folder = sys.argv[1:]
    reader = gguf.GGUFReader(source)
    config = config_of(reader)
    config._attn_implementation = None
    model = LlamaForCausalLM(config)
    model.load_state_dict(state_dict(reader, config, nf4=False), strict=False)
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main()
