"""tests/golden/tiny/noise.safetensors: gradients with dropout's masks and NEFTune's noise given.

PEFT's own dropout modules are replaced by ones that multiply by dayrun's masks, and the embedding's output gets
dayrun's noise: both by Philox4x32-10, written here a second time. Documents are those of tiny/golden.json, packed in
their order; document by document the rows of the masks are those of its place in the packing.

    dropout.nll.N, dropout.grad.MODULE.lora_A / lora_B    lora_dropout = P, adapter-r8
    neftune.nll.N, neftune.grad...                        neftune_alpha = ALPHA
    dropout.mistake.*                                     gradients under planted mistakes, as one vector
"""

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import save_file

from golden_tiny import documents, load_bnb, nll, trainable

SEED, STEP, MICRO_BATCH = 0x1234_5678_9ABC, 7, 2
P, ALPHA = 0.25, 5.0
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def philox(index, stream):
    """uint32 words [len(index), 4]."""
    index = np.asarray(index, dtype=np.uint64)
    full = lambda x: np.full(index.shape, x, dtype=np.uint64)
    c = [index, full(stream), full(STEP), full(MICRO_BATCH)]
    key = [SEED & 0xFFFFFFFF, SEED >> 32]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(key[0]), b & low,
             (a >> np.uint64(32)) ^ c[3] ^ np.uint64(key[1]), a & low]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, axis=1).astype(np.uint32)


def mask(rows, width, module, p=P):
    threshold = round(p * 65536)
    words = philox(np.arange((rows * width + 7) // 8), module)
    halves = np.stack([words & 0xFFFF, words >> 16], axis=2).reshape(-1)[: rows * width]
    scale = 65536 / (65536 - threshold)
    return torch.from_numpy(np.where(halves < threshold, 0.0, scale).astype(np.float32).reshape(rows, width))


def noise(lengths, hidden):
    total = sum(lengths)
    words = philox(np.arange((total * hidden + 3) // 4), 0xFFFFFFFF).reshape(-1)[: total * hidden]
    u = words.view(np.int32).astype(np.float64).reshape(total, hidden) / 2**31
    magnitude = np.concatenate([np.full(n, ALPHA / np.sqrt(n * hidden)) for n in lengths])
    return torch.from_numpy((u * magnitude[:, None]).astype(np.float32))


class Given(torch.nn.Module):
    """Multiplies by the rows of a mask from `start` on, a cell that moves from document to document."""

    def __init__(self, mask, start):
        super().__init__()
        self.mask, self.start = mask, start

    def forward(self, x):
        return x * self.mask[self.start[0]: self.start[0] + x.shape[-2]]


def gradients(change, golden, docs):
    """(nll per document, gradients by name) of the mean loss."""
    peft = PeftModel.from_pretrained(load_bnb(golden / "tiny/bnb"), golden / "tiny/adapter-r8", is_trainable=True)
    start = [0]
    change(peft, start)
    sums = []
    for ids, m in docs:
        sums.append(nll(peft, ids, m))
        start[0] += ids.numel()
    (sum(sums) / sum(int(m.sum()) for _, m in docs)).backward()
    short = lambda n: n.replace("base_model.model.", "").replace(".default.weight", "")
    return [s.detach().reshape(1) for s in sums], {short(n): p.grad.clone() for n, p in trainable(peft).items()}


def dropped(rows, module=lambda layer, i: 7 * layer + i, p=P):
    def change(peft, start):
        for name, m in peft.named_modules():
            if hasattr(m, "lora_dropout") and len(m.lora_dropout):
                layer, i = int(name.split(".layers.")[1].split(".")[0]), LINEARS.index(name.split(".")[-1])
                m.lora_dropout["default"] = Given(mask(rows, m.in_features, module(layer, i), p), start)
    return change


def noisy(lengths):
    def change(peft, start):
        embedding = peft.get_input_embeddings()
        values = noise(lengths, embedding.embedding_dim)
        embedding.register_forward_hook(
            lambda _, __, out: out + values[start[0]: start[0] + out.shape[-2]])
    return change


def make(golden, log):
    docs = documents(3)
    rows, lengths = sum(ids.numel() for ids, _ in docs), [ids.numel() for ids, _ in docs]
    tensors = {}
    plain = gradients(lambda *_: None, golden, docs)[1]
    for kind, change in (("dropout", dropped(rows)), ("neftune", noisy(lengths))):
        losses, grads = gradients(change, golden, docs)
        tensors |= {f"{kind}.nll.{i}": loss for i, loss in enumerate(losses)}
        tensors |= {f"{kind}.grad.{name}": g for name, g in grads.items()}
        apart = torch.cat([(grads[n] - plain[n]).flatten() for n in grads]).norm()
        whole = torch.cat([g.flatten() for g in grads.values()]).norm()
        log(f"{kind}: {float(apart / whole):.2g} of its norm from the gradient without")
    names = [n.removeprefix("dropout.grad.") for n in tensors if n.startswith("dropout.grad.")]
    right = torch.cat([tensors[f"dropout.grad.{n}"].flatten() for n in names])
    mistakes = {"one_mask_for_qkv": dropped(rows, lambda layer, i: 7 * layer + (0 if i < 3 else i)),
                "rate_of_0.26": dropped(rows, p=0.26)}
    for name, change in mistakes.items():
        losses, grads = gradients(change, golden, docs)
        wrong = torch.cat([grads[n].flatten() for n in names])
        log(f"  planted {name}: {float((wrong - right).norm() / right.norm()):.2g} of the norm")
        tensors |= {f"dropout.mistake.{name}.{i}": loss for i, loss in enumerate(losses)}
    save_file(tensors, golden / "tiny/noise.safetensors")
