"""Makes a data file of any size: conversations of one to three turns, or prompts with completions, of words with
a natural spread of lengths. The same arguments make the same file.

    python scripts/make_rows.py 1000000 prompt rows.jsonl
    python scripts/make_rows.py 1000000 messages rows.parquet     (needs pyarrow)
"""

import json
import random
import sys

SYLLABLES = "ba be bi bo bu da de di do ka ke ki ko la le li lo ma me mi mo na ne ni no ra re ri ro sa se si so ta te ti to".split()
COMMON = "the of and a to in is was it for on are as with his they at be this from or had by not but what all were when we".split()


def vocabulary(rng: random.Random) -> list:
    words = ["".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 4))) for _ in range(20_000)]
    return COMMON * 200 + words


def text(rng: random.Random, words: list, mean: float) -> str:
    count = min(1 + int(rng.expovariate(1 / mean)), 400)
    sentence = " ".join(rng.choices(words, k=count))
    return sentence[0].upper() + sentence[1:] + rng.choice(". ? !".split())


def row(kind: str, rng: random.Random, words: list) -> dict:
    if kind == "prompt":
        return {"prompt": text(rng, words, 20) + "\n", "completion": text(rng, words, 30)}
    if kind == "text":
        return {"text": text(rng, words, 50)}
    turns = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        turns.append({"role": "user", "content": text(rng, words, 15)})
        turns.append({"role": "assistant", "content": text(rng, words, 25)})
    return {"messages": turns}


def main() -> None:
    count, kind, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    rng = random.Random(0)
    words = vocabulary(rng)
    if path.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        writer, done = None, 0
        while done < count:
            part = min(20_000, count - done)
            table = pa.Table.from_pylist([row(kind, rng, words) for _ in range(part)])
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            done += part
        writer.close()
        return
    with open(path, "w", encoding="utf-8") as out:
        for _ in range(count):
            out.write(json.dumps(row(kind, rng, words), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
