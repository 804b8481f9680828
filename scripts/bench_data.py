"""Times how the datasets library reads and tokenises a file, beside `dayrun bench data` on the same file with the
same tokenizer.

    pip install datasets==5.2.0 transformers==5.23.0
    python scripts/bench_data.py --model DIR --kind prompt rows.jsonl --dayrun target/release/dayrun

DIR holds tokenizer.json, tokenizer_config.json and the chat template; --from-gguf FILE writes it first, from the
GGUF of a model that splits numbers and words as SmolLM2 does. Loading (into Arrow) and map are timed apart, and map
in the two ways that people write it: `row` tokenises one row at a time with its loss mask, as trl's SFTTrainer
does; `batch` tokenises the whole texts, a thousand rows at a time, and makes no mask.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from datasets import disable_progress_bars, load_dataset
from transformers import AutoTokenizer, PreTrainedTokenizerFast


def from_gguf(path: str, folder: Path) -> None:
    import gguf
    from tokenizers import Tokenizer, decoders, models
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    fields = gguf.GGUFReader(path).fields
    names = ["tokens", "merges", "token_type"]
    tokens, merges, kinds = (fields["tokenizer.ggml." + name].contents() for name in names)
    inner = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    inner.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([t for t, k in zip(tokens, kinds) if k == gguf.TokenType.CONTROL])
    whole = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|im_start|>", eos_token="<|im_end|>")
    whole.chat_template = fields["tokenizer.chat_template"].contents()
    whole.save_pretrained(folder)


def by_row(tokenizer, kind):
    def prompt(row):
        before = tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(row["prompt"] + row["completion"])["input_ids"] + [tokenizer.eos_token_id]
        return {"input_ids": ids, "completion_mask": [0] * len(before) + [1] * (len(ids) - len(before))}

    def messages(row):
        # Templates without generation blocks mark nothing; the time is that of those which do.
        made = tokenizer.apply_chat_template(row["messages"], return_dict=True)
        return {"input_ids": made["input_ids"]}

    return {"prompt": prompt, "messages": messages}[kind]


def by_batch(tokenizer, kind):
    def prompt(rows):
        texts = [p + c for p, c in zip(rows["prompt"], rows["completion"])]
        return {"input_ids": tokenizer(texts, return_attention_mask=False)["input_ids"]}

    def messages(rows):
        texts = tokenizer.apply_chat_template(rows["messages"], tokenize=False)
        return {"input_ids": tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]}

    return {"prompt": prompt, "messages": messages}[kind]


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("file")
    args.add_argument("--model", required=True)
    args.add_argument("--from-gguf")
    args.add_argument("--kind", choices=["prompt", "messages"], required=True)
    args.add_argument("--num-proc", type=int, default=2)
    args.add_argument("--dayrun", help="the binary; without it only the datasets library is timed")
    args = args.parse_args()
    if args.from_gguf:
        from_gguf(args.from_gguf, Path(args.model))
    if args.dayrun:
        command = [args.dayrun, "bench", "data", "--model", args.model, args.file, "--json"]
        made = subprocess.run(command, check=True, capture_output=True, text=True)
        print("dayrun:", made.stdout.strip(), flush=True)
    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        form = "parquet" if args.file.endswith(".parquet") else "json"
        rows = load_dataset(form, data_files=args.file, cache_dir=cache, split="train")
        load = time.perf_counter() - start
        print(json.dumps({"datasets": "load", "seconds": round(load, 1), "rows_per_second": round(len(rows) / load)}))
        for name, function in [("batch", by_batch(tokenizer, args.kind)), ("row", by_row(tokenizer, args.kind))]:
            start = time.perf_counter()
            names = rows.column_names
            made = rows.map(function, batched=name == "batch", num_proc=args.num_proc, remove_columns=names)
            seconds = time.perf_counter() - start
            rate = round(len(made) / seconds)
            print(json.dumps({"datasets": f"map, {name}", "seconds": round(seconds, 1), "rows_per_second": rate}), flush=True)


if __name__ == "__main__":
    main()
