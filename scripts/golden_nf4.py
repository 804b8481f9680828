"""tests/golden/nf4.safetensors: what bitsandbytes makes of a few matrices, and what it reads back."""

import numpy as np
import torch
from bitsandbytes import functional as bnb
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from safetensors.torch import save_file

import nf4_rule as rule


def matrices():
    """Name -> f32 or bf16 tensor [rows, cols]."""
    rng = np.random.default_rng(20261124)

    def normal(*shape, scale=0.02):
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    outliers = normal(8, 256)
    outliers[rng.random(outliers.shape) < 0.01] *= 50
    zeros = normal(8, 128)
    zeros[1, :64] = 0
    zeros[3] = 0
    zeros[5, 64:] = -0.0
    # absmax 1, so that the scaled value is the value: each threshold, and one ulp to either side.
    t = rule.THRESHOLDS
    block = [np.concatenate([[1.0], f(t), f(-t)]) for f in (
        lambda t: t, lambda t: np.nextafter(t, np.float32(2)), lambda t: np.nextafter(t, np.float32(-2)))]
    thresholds = np.zeros((3, 64), dtype=np.float32)
    for row, values in enumerate(block):
        thresholds[row, : values.size] = values
    f32 = {
        "random": normal(16, 128),
        "outliers": outliers,
        "zeros": zeros,
        "thresholds": thresholds,
        "straddle": normal(6, 176),
        "tail": normal(7, 90),
        "odd": normal(5, 67),
    }
    out = {name: torch.from_numpy(x) for name, x in f32.items()}
    out["bf16"] = torch.from_numpy(normal(24, 192)).bfloat16()
    # Three nested blocks, the last one partial, one scale far from the others.
    nested = normal(70, 331)
    nested[40:44] *= 30
    nested[60] = 0
    out["nested"] = torch.from_numpy(nested).bfloat16()
    return out


def dequantise(packed, state, dtype):
    """bitsandbytes' decoding. Its AVX-512 CPU kernel (0.50.2) takes the wrong scale for blocks that
    straddle rows (columns divide by 16 and not by 64); there its own portable routine answers."""
    if state.shape[-1] % 64:
        args = (packed.reshape(-1), scales(state), state.code, state.blocksize, state.shape, dtype)
        return _dequantize_4bit_compute(*args)
    state.dtype = dtype
    return bnb.dequantize_4bit(packed, state)


def scales(state):
    if not state.nested:
        return state.absmax
    return bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset


def nibbles_differ(a, b, n):
    a, b = rule.unpack(a.numpy(), n).astype(int), rule.unpack(b, n).astype(int)
    return np.flatnonzero(a != b), np.abs(a - b).max()


def make(path, log):
    """Writes the file. Keys: CASE.x, .codes, .absmax, .f32, .bf16 are bitsandbytes';
    CASE.rule_codes and .rule_absmax are the CUDA rule's, computed from the rule (nf4_rule.py);
    nested.weight* is a state dict of bitsandbytes, nested.rule_* its CUDA rule."""
    table = bnb.create_dynamic_map()
    tensors = {"dynamic_map": table, "codebook": bnb.get_4bit_type("nf4", device="cpu")}
    assert (tensors["codebook"].numpy().view(np.uint32) == rule.CODEBOOK.view(np.uint32)).all()
    for name, x in matrices().items():
        packed, state = bnb.quantize_4bit(x, quant_type="nf4", compress_statistics=False)
        codes, absmax = rule.quantise(x.float().numpy())
        at, _ = nibbles_differ(packed, rule.pack(codes), x.numel())
        zero_block = (absmax == 0)[at // 64]
        log(f"nf4 {name}: {at.size} of {x.numel()} codes differ from the CUDA rule, "
            f"{int((~zero_block).sum())} outside blocks of zeros")
        assert (state.absmax.numpy() == absmax)[absmax > 0].all()
        decoded = {dtype: dequantise(packed, state, dtype) for dtype in (torch.float32, torch.bfloat16)}
        ours = rule.decode(rule.unpack(packed.numpy(), x.numel()), state.absmax.numpy()).reshape(x.shape)
        same = (ours == decoded[torch.float32].numpy()).all()
        same16 = (rule.round_bf16(ours) == decoded[torch.bfloat16].float().numpy()).all()
        state.dtype = torch.bfloat16
        kernel = (bnb.dequantize_4bit(packed, state).float().numpy() == rule.round_bf16(ours)).all()
        log(f"  decoding: f32 {'equal' if same else 'DIFFERS'}, bf16 {'equal' if same16 else 'DIFFERS'}, "
            f"as the CPU kernel does it {'equal' if kernel else 'DIFFERS (its quirk, not used)'}")
        tensors |= {
            f"{name}.x": x.contiguous(),
            f"{name}.codes": packed.reshape(-1),
            f"{name}.absmax": state.absmax,
            f"{name}.f32": decoded[torch.float32],
            f"{name}.bf16": decoded[torch.bfloat16],
            f"{name}.rule_codes": torch.from_numpy(rule.pack(codes)),
            f"{name}.rule_absmax": torch.from_numpy(absmax),
        }
    x = matrices()["nested"].float()
    packed, state = bnb.quantize_4bit(x, quant_type="nf4", compress_statistics=True)
    for key in ("x", "codes", "absmax", "f32", "bf16"):
        if key != "x":
            tensors.pop(f"nested.{key}")
    tensors["nested.weight"] = packed
    for key, value in state.as_dict(packed=True).items():
        tensors[f"nested.weight.{key}"] = value
    decoded = dequantise(packed, state, torch.float32)
    tensors["nested.f32"] = decoded
    tensors["nested.bf16"] = dequantise(packed, state, torch.bfloat16)
    _, absmax = rule.quantise(x.numpy())
    codes, absmax2, offset = rule.double_quantise(absmax, table.numpy())
    tensors["nested.rule_nested_codes"] = torch.from_numpy(codes)
    tensors["nested.rule_nested_absmax"] = torch.from_numpy(absmax2)
    tensors["nested.rule_offset"] = torch.tensor([offset])
    bnb_codes = state.absmax.numpy()
    log(f"nested: {(bnb_codes != codes).sum()} of {codes.size} scale codes differ from the CUDA rule, "
        f"at most by {np.abs(bnb_codes.astype(int) - codes).max()}; mean {float(state.offset)!r} in f32, "
        f"{float(offset)!r} from f64")
    ours = rule.decode(rule.unpack(packed.numpy(), x.numel()),
                       rule.nested_absmax(bnb_codes, state.state2.absmax.numpy(), float(state.offset),
                                          table.numpy())).reshape(x.shape)
    log(f"  decoding: f32 {'equal' if (ours == decoded.numpy()).all() else 'DIFFERS'}")
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
