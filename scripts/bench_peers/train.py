"""Training steps in transformers + PEFT + bitsandbytes, timed. Prints one JSON line.

    python scripts/bench_peers/train.py FOLDER --mode documented --batch 4 --seq 256

Modes, from what a user gets to what was found to be fastest:

documented   PEFT's quantisation guide: BitsAndBytesConfig with nf4, double quantisation and bf16
             compute; prepare_model_for_kbit_training with its defaults (norms, embedding and head in
             f32, gradient checkpointing), LoraConfig(r=16, "all-linear"), torch.optim.AdamW
kept         the same without gradient checkpointing
autocast     the same as `kept` under bf16 autocast, what Trainer(bf16=True) does
plain        without prepare_model_for_kbit_training: the base stays in bf16, the adapter in f32
tuned        everything in bf16, no checkpointing, fused AdamW; --compile and --attention on top

With --lengths FILE (one document's tokens a line) rows are ragged: batches of --batch rows, padded to
the longest, in random order or grouped by length as transformers' group_by_length does; real tokens
are counted. An epoch takes long, so that --batches of its batches are run: those at evenly spread ranks
of cost, cost being rows times the longest row. `real_share` says how much of them is no padding, and
`epoch_real_share` of the epoch.
"""

import argparse
import statistics
import time

import torch
from common import report
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.trainer_pt_utils import get_length_grouped_indices

IGNORED = -100


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--mode", choices="documented kept autocast plain tuned".split(), required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--compile", choices=["no", "layers", "loss", "both"], default="no")
    parser.add_argument("--lengths")
    parser.add_argument("--grouped", action="store_true")
    parser.add_argument("--batches", type=int, default=3, help="batches of the optimizer step, ragged")
    return parser.parse_args()


def load(options):
    model = AutoModelForCausalLM.from_pretrained(
        options.folder,
        dtype=torch.bfloat16,
        attn_implementation=options.attention,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    )
    if options.mode in ("documented", "kept", "autocast"):
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=options.mode == "documented"
        )
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = options.mode == "tuned"
    model = get_peft_model(model, lora, autocast_adapter_dtype=not tuned)
    if tuned:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    model.train()
    model.config.use_cache = False
    if options.compile in ("layers", "both"):
        for layer in model.get_base_model().model.layers:
            layer.compile(dynamic=bool(options.lengths))
    return model


def shaped(options, vocab):
    """The same random tokens every step, all of them with loss."""
    ids = torch.randint(0, vocab, (options.batch, options.seq), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    while True:
        yield inputs, ids.numel()


def plan(options):
    """Batches of rows' lengths: the ones that are run, and all of an epoch."""
    lengths = [int(line) for line in open(options.lengths)]
    generator = torch.Generator().manual_seed(0)
    if options.grouped:
        order = get_length_grouped_indices(lengths, options.batch, generator=generator)
    else:
        order = torch.randperm(len(lengths), generator=generator).tolist()
    starts = range(0, len(order), options.batch)
    epoch = [[lengths[row] for row in order[i : i + options.batch]] for i in starts]
    ranked = sorted(epoch, key=lambda rows: len(rows) * max(rows))
    middle = lambda i: ranked[(2 * i + 1) * len(ranked) // (2 * options.batches)]
    return [middle(i) for i in range(options.batches)], epoch


def real_share(batches):
    return sum(map(sum, batches)) / sum(len(rows) * max(rows) for rows in batches)


def ragged(batches, vocab):
    """These batches of random tokens, padded to the longest row."""
    generator = torch.Generator().manual_seed(0)
    for rows in batches:
        mask = torch.stack([(torch.arange(max(rows)) < length).long() for length in rows])
        ids = torch.randint(0, vocab, mask.shape, generator=generator) * mask
        labels = ids.masked_fill(mask == 0, IGNORED)
        yield {"input_ids": ids, "attention_mask": mask, "labels": labels}, int(mask.sum())


def loss_of(options):
    def loss(model, inputs):
        if options.mode == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                return model(**inputs).loss
        return model(**inputs).loss

    def own_loss(logits, labels):
        logits = logits[:, :-1].flatten(0, 1).float()
        return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORED)

    if options.compile not in ("loss", "both"):
        return loss
    compiled = torch.compile(own_loss, dynamic=bool(options.lengths))

    def loss_compiled(model, inputs):
        labels = inputs["labels"]
        rest = {key: value for key, value in inputs.items() if key != "labels"}
        return compiled(model(**rest).logits, labels)

    return loss_compiled


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = load(options)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True if options.mode == "tuned" else None)
    loss_function = loss_of(options)
    vocab, shares = model.config.vocab_size, {}
    if options.lengths:
        # One short row warms up what there is to warm up; the measured step takes all the batches.
        chosen, epoch = plan(options)
        batches = ragged([[64]] * options.warmup + chosen, vocab)
        shares = {"real_share": real_share(chosen), "epoch_real_share": real_share(epoch)}
        steps, accumulate = 1, options.batches
    else:
        batches, steps, accumulate = shaped(options, vocab), options.steps, 1

    def step(count):
        tokens, start = 0, time.perf_counter()
        for _ in range(count):
            inputs, real = next(batches)
            loss = loss_function(model, inputs)
            (loss / count).backward()
            tokens += real
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return tokens, time.perf_counter() - start, loss.item()

    for _ in range(options.warmup):
        step(1)
    measured = [step(accumulate) for _ in range(steps)]
    seconds = [s for _, s, _ in measured]
    tokens = [n for n, _, _ in measured]
    rate = tokens[0] / statistics.median(seconds)
    report(tok_s=rate, step_seconds=seconds, tokens=tokens, loss=measured[-1][2], **shares)


if __name__ == "__main__":
    main()
