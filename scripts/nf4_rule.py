"""bitsandbytes' CUDA rule for NF4 and double quantisation, in numpy.

Written from the rule, not from any code, and not from dayrun's: it is what the golden files compare
dayrun's quantiser with where bitsandbytes' own CPU build departs from its CUDA kernels (all-zero
blocks, the last partial block, every nested code). Decoding is checked against bitsandbytes itself.
"""

import numpy as np

BLOCK, NESTED = 64, 256
# fmt: off
CODEBOOK = np.array([
    0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0x00000000,
    0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a, 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000,
], dtype=np.uint32).view(np.float32)
# fmt: on
THRESHOLDS = (CODEBOOK[:-1] + CODEBOOK[1:]) / np.float32(2)


def blocks_of(values, size):
    """[blocks, size] with the last block padded by zeros, which changes no maximum."""
    flat = np.asarray(values, dtype=np.float32).reshape(-1)
    padded = np.zeros(-(-flat.size // size) * size, dtype=np.float32)
    padded[: flat.size] = flat
    return padded.reshape(-1, size), flat.size


def scaled(blocks):
    """x * (1 / absmax) in f32, NaN for a block of zeros; and absmax."""
    absmax = np.abs(blocks).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return blocks * (np.float32(1) / absmax)[:, None], absmax


def quantise(values):
    """Unpacked codes and absmax. The number of thresholds strictly below; NaN is above none."""
    blocks, n = blocks_of(values, BLOCK)
    x, absmax = scaled(blocks)
    codes = np.searchsorted(THRESHOLDS, np.nan_to_num(x, nan=-2.0), side="left")
    return codes.reshape(-1)[:n].astype(np.uint8), absmax


def double_quantise(absmax, table):
    """Nested codes, second-level absmax and offset of first-level scales.

    CUDA searches the 256 ascending entries by bisection from 127 in steps of 64 .. 1, so it ends on
    an even entry, and that one wins a tie against either neighbour. NaN (a nested block of zeros)
    goes down at every step: code 0.
    """
    offset = np.float32(absmax.astype(np.float64).mean())
    blocks, n = blocks_of(absmax - offset, NESTED)
    x, absmax2 = scaled(blocks)
    middle = (table[:-1] + table[1:]) * np.float32(0.5)
    x = np.nan_to_num(x, nan=-2.0)[..., None]
    even = np.arange(255) % 2 == 0
    codes = np.where(even, x > middle, x >= middle).sum(axis=-1)
    return codes.reshape(-1)[:n].astype(np.uint8), absmax2, offset


def pack(codes):
    """Element 2j in the high nibble of byte j; the spare nibble of an odd count is a 0's code, 7."""
    codes = np.concatenate([codes, np.full(codes.size % 2, 7, dtype=np.uint8)])
    return (codes[0::2] << 4) | codes[1::2]


def unpack(packed, n):
    packed = np.asarray(packed, dtype=np.uint8).reshape(-1)
    return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[:n]


def nested_absmax(codes, absmax2, offset, table):
    """map[q] * absmax2 + offset: two f32 roundings."""
    return table[codes] * np.repeat(absmax2, NESTED)[: codes.size] + np.float32(offset)


def decode(codes, absmax):
    """codebook * absmax: one f32 rounding."""
    return CODEBOOK[codes] * np.repeat(absmax, BLOCK)[: codes.size]


def round_bf16(x):
    """Nearest even, as f32."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32)


def through_nf4(values, table):
    """The values of a matrix after NF4 with double quantisation and back."""
    codes, absmax = quantise(values)
    absmax = nested_absmax(*double_quantise(absmax, table), table)
    return decode(codes, absmax).reshape(np.shape(values))
