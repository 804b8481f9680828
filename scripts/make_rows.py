"""Makes a data file of any size: conversations of one to three turns, or prompts with completions, of words with
a natural spread of lengths. The same arguments make the same file.

    python scripts/make_rows.py 1000000 prompt rows.jsonl rows.parquet
"""

import argparse
import json
import random

# Rows of a row group.
GROUP = 20_000

SYLLABLES = "ba be bi bo bu da de di do ka ke ki ko la le li lo ma me mi mo na ne ni no ra re ri ro sa se si so ta te ti to".split()
COMMON = "the of and a to in is was it for on are as with his they at be this from or had by not but what all were when we".split()


def vocabulary(rng: random.Random) -> list:
    words = ["".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 4))) for _ in range(20_000)]
    return COMMON * 200 + words


def text(rng: random.Random, words: list, mean: float) -> str:
    count = min(1 + int(rng.expovariate(1 / mean)), 400)
    sentence = " ".join(rng.choices(words, k=count))
    return sentence[0].upper() + sentence[1:] + rng.choice(". ? !".split())


def row(kind: str, rng: random.Random, words: list, scale: float) -> dict:
    if kind == "prompt":
        return {"prompt": text(rng, words, 20 * scale) + "\n", "completion": text(rng, words, 30 * scale)}
    if kind == "text":
        return {"text": text(rng, words, 50 * scale)}
    turns = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        turns.append({"role": "user", "content": text(rng, words, 15 * scale)})
        turns.append({"role": "assistant", "content": text(rng, words, 25 * scale)})
    return {"messages": turns}


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("count", type=int)
    args.add_argument("kind", choices=["prompt", "text", "messages"])
    args.add_argument("files", nargs="+", help="the same rows go into each; *.parquet needs pyarrow")
    args.add_argument("--scale", type=float, default=1.0, help="texts so many times as long")
    args = args.parse_args()
    rng = random.Random(0)
    words = vocabulary(rng)
    lines = [open(path, "w", encoding="utf-8") for path in args.files if not path.endswith(".parquet")]
    tables: dict = {path: None for path in args.files if path.endswith(".parquet")}
    for start in range(0, args.count, GROUP):
        rows = [row(args.kind, rng, words, args.scale) for _ in range(min(GROUP, args.count - start))]
        for out in lines:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for path in tables:
            import pyarrow
            import pyarrow.parquet

            table = pyarrow.Table.from_pylist(rows)
            tables[path] = tables[path] or pyarrow.parquet.ParquetWriter(path, table.schema)
            tables[path].write_table(table)
    for out in [*lines, *tables.values()]:
        out.close()


if __name__ == "__main__":
    main()
