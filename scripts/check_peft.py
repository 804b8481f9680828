"""Loads an adapter directory that dayrun wrote into PEFT and says what it does there. By hand:

    VENV/bin/python scripts/check_peft.py BASE ADAPTER [--against OTHER] [--ids 1 5 9 | --text TEXT]

BASE is a Hub directory (16-bit or bitsandbytes 4-bit). Every key of the adapter must find its module
and no module may stay without; then it prints how far the adapter moves the logits of one prompt, in
standard deviations of the base's, and with --against how far it is from another adapter (the one PEFT
saved after the same training, say). Exit status 1 when keys do not match or the adapter does nothing.

The adapter that tests/golden_model.rs trains, against the one PEFT trained from the same start:

    DAYRUN_KEEP_ADAPTER=DIR cargo test --test golden_model twenty_losses
    VENV/bin/python scripts/check_peft.py tests/golden/tiny/bnb DIR --against tests/golden/tiny/adapter-r8-trained

An adapter of every kind that dayrun writes, which must give the logits of the one that PEFT wrote, bit for bit:

    DAYRUN_KEEP_ADAPTER=DIR cargo test --test golden_adapters what_is_written
    for kind in $(ls DIR); do
        VENV/bin/python scripts/check_peft.py tests/golden/tiny/bnb DIR/$kind --logits tests/golden/adapters/$kind.safetensors
    done

The environment is that of scripts/requirements-golden.txt; compute is f32.
"""

import argparse
import os
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import torch  # noqa: E402
from bitsandbytes.nn import Linear4bit  # noqa: E402
from peft import PeftModel, get_peft_model_state_dict  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402


def load_base(path):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.compute_dtype, module.compute_type_is_set = torch.float32, True
    for p in model.parameters():
        if p.is_floating_point():
            p.data = p.data.float()
    return model.eval()


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids[None], use_cache=False).logits[0].float()


def adapted(base, adapter, ids):
    """Logits with the adapter; refuses keys that PEFT ignores or misses."""
    model = PeftModel.from_pretrained(load_base(base), adapter).eval()
    in_file = load_file(Path(adapter) / "adapter_model.safetensors")
    in_model = get_peft_model_state_dict(model)
    if set(in_file) != set(in_model):
        lost, missing = sorted(set(in_file) - set(in_model)), sorted(set(in_model) - set(in_file))
        raise SystemExit(f"{adapter}: keys PEFT ignores: {lost[:4]}; keys it misses: {missing[:4]}")
    for key, value in in_file.items():
        if not torch.equal(in_model[key].float(), value.float()):
            raise SystemExit(f"{adapter}: {key} came out different")
    print(f"{adapter}: all {len(in_file)} tensors found their module")
    return logits(model, ids)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("adapter")
    parser.add_argument("--against", help="another adapter directory")
    parser.add_argument("--logits", help="a file with ids, and the logits that the adapter must give for them")
    parser.add_argument("--ids", type=int, nargs="+", help="token ids of the prompt")
    parser.add_argument("--text", default="The capital of France is")
    args = parser.parse_args()
    wanted = load_file(args.logits) if args.logits else None
    if wanted:
        ids = wanted["ids"].long()
    elif args.ids:
        ids = torch.tensor(args.ids)
    else:
        ids = torch.tensor(AutoTokenizer.from_pretrained(args.base)(args.text, add_special_tokens=False).input_ids)
    base = logits(load_base(args.base), ids)
    got = adapted(args.base, args.adapter, ids)
    distance = lambda a, b: float((a - b).abs().max() / base.std())
    moved = distance(got, base)
    print(f"it moves the logits of {ids.numel()} tokens by up to {moved:.4g} standard deviations of the base's")
    if wanted and not torch.equal(got, wanted["logits"]):
        raise SystemExit(f"its logits are {distance(got, wanted['logits']):.3g} from those of {args.logits}")
    if args.against:
        print(f"from {args.against} they are {distance(got, adapted(args.base, args.against, ids)):.3g} apart")
    if not moved > 0:
        raise SystemExit("the adapter does nothing here")


if __name__ == "__main__":
    main()
