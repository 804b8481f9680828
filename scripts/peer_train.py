"""The quickstart's training rows in transformers + PEFT + bitsandbytes: real tokens a second.

    pip install -r scripts/requirements-golden.txt
    python scripts/peer_train.py SmolLM2-135M-Instruct.Q4_1.gguf data/orders/train.jsonl

The base is the same GGUF, quantised to NF4 with double quantisation by bitsandbytes; r = 16 on all
linears, bf16 compute, AdamW, rows padded to the longest of each batch of 8 as the default collator
does. Real tokens are counted, padding is not. Prints the median over the measured steps.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import gguf
import torch
from golden_smollm2 import config_of, state_dict
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaForCausalLM

IGNORED = -100


def rows(path, tokenizer):
    for line in open(path):
        messages = json.loads(line)["messages"]
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        prompt = tokenizer.apply_chat_template(
            messages[:-1], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        skip = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        yield ids, [IGNORED] * skip + ids[skip:]


def batch(chunk):
    longest = max(len(ids) for ids, _ in chunk)
    pad = lambda values, filler: values + [filler] * (longest - len(values))
    return {
        "input_ids": torch.tensor([pad(ids, 0) for ids, _ in chunk]),
        "attention_mask": torch.tensor([pad([1] * len(ids), 0) for ids, _ in chunk]),
        "labels": torch.tensor([pad(labels, IGNORED) for _, labels in chunk]),
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("gguf", type=Path)
    arguments.add_argument("rows", type=Path)
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--warmup", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=20)
    options = arguments.parse_args()

    folder = options.gguf.parent
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=options.gguf.name)
    with tempfile.TemporaryDirectory() as plain:
        reader = gguf.GGUFReader(options.gguf)
        config = config_of(reader)
        dense = LlamaForCausalLM(config)
        dense.load_state_dict(state_dict(reader, config, nf4=False), strict=False)
        dense.to(torch.bfloat16).save_pretrained(plain)
        del dense
        model = AutoModelForCausalLM.from_pretrained(
            plain,
            dtype=torch.bfloat16,
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16,
            ),
        )
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)

    data = list(rows(options.rows, tokenizer))
    rates = []
    for step in range(options.warmup + options.steps):
        chunk = data[step * options.batch : (step + 1) * options.batch]
        inputs = batch(chunk)
        start = time.perf_counter()
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - start
        if step >= options.warmup:
            rates.append(sum(len(ids) for ids, _ in chunk) / seconds)
    print(f"{torch.__version__=} threads={torch.get_num_threads()} batch={options.batch}")
    print(f"median {statistics.median(rates):.0f} real tokens/s over {len(rates)} steps, last loss {loss:.3f}")


if __name__ == "__main__":
    main()
