"""Writes tests/golden/rows/: the same rows as JSON lines, JSON and Parquet, as the datasets library and pyarrow
write them. tests/formats.rs reads them all and expects the same documents.

    pip install -r scripts/requirements-golden.txt datasets
    python scripts/golden_rows.py
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

OUT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "rows"

WORDS = "the cat saw a bird 你好 naïve \n tab\t 🙂 and \"quotes\" \\ back".split(" ")


def words(start: int, count: int) -> str:
    return " ".join(WORDS[(start + 7 * i) % len(WORDS)] for i in range(count))


TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def messages(i: int) -> list:
    turns = [{"role": "system", "content": words(i, 3)}] if i % 3 == 0 else []
    for t in range(1 + i % 3):
        turns.append({"role": "user", "content": words(i + t, 4 + i % 5)})
        turns.append({"role": "assistant", "content": words(i * t, 3 + t)})
    return turns


def calls(i: int) -> list:
    """Every third conversation calls a tool; the column then has a null for all other messages."""
    turns = messages(i)
    if i % 3 == 1:
        function = {"name": "weather", "arguments": json.dumps({"city": words(i, 1)})}
        turns[1:1] = [
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
            {"role": "tool", "content": words(i, 2)},
        ]
    return turns


SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}

KINDS = {
    "text": [{"text": words(i, 5 + i), "meta": i} for i in range(20)],
    "prompt": [{"prompt": words(i, i % 6), "completion": words(2 * i, 1 + i % 9), "id": i} for i in range(20)],
    "alpaca": [
        {"instruction": words(i, 4), "input": words(i, 3) if i % 2 else "", "output": words(i + 1, 1 + i)}
        for i in range(20)
    ],
    "messages": [{"messages": messages(i)} for i in range(20)],
    "conversations": [
        {"conversations": [{"from": SPEAKERS[m["role"]], "value": m["content"]} for m in messages(i)]}
        for i in range(20)
    ],
    "tools": [{"messages": messages(i), "tools": json.dumps([TOOL]) if i % 2 else None} for i in range(20)],
    "calls": [{"messages": calls(i), "tools": json.dumps([TOOL])} for i in range(20)],
    "input_ids": [
        {
            "input_ids": [(3 * i + t) % 200 for t in range(6)],
            "labels": [-100 if t < 2 else (3 * i + t) % 200 for t in range(6)],
            "attention_mask": [1] * 6,
        }
        for i in range(20)
    ],
}


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for name, rows in KINDS.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (OUT / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        Dataset.from_list(rows).to_parquet(OUT / f"{name}.parquet")
    rows = KINDS["messages"]
    (OUT / "list.json").write_text(json.dumps(rows), encoding="utf-8")
    (OUT / "indented.json").write_text(json.dumps({"version": "1", "data": rows}, indent=1), encoding="utf-8")
    # Several row groups, every codec, with and without a dictionary, both versions of pages.
    table = pa.Table.from_pylist(rows)
    for codec in ["none", "snappy", "gzip", "zstd", "lz4", "brotli"]:
        other = codec in ["none", "zstd", "brotli"]
        pq.write_table(
            table,
            OUT / f"messages-{codec}.parquet",
            compression=codec,
            row_group_size=7,
            use_dictionary=not other,
            data_page_version="2.0" if other else "1.0",
        )


if __name__ == "__main__":
    main()
