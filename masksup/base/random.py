"""Random draws as functions of (seed, position), so that no generator state has to be stored or shared.

What a position of the endless sample sequence yields (which sample, crop, flip, colours) depends on the seed
and the position alone: not on the number of workers or ranks, and not on where a run was resumed.
"""

import zlib

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

# Few rounds are biased for tiny n: chi-square over all n! orders asks for 8 at n = 4, 16 at 5, 24 at 7.
ROUNDS = 24
_MASK64 = (1 << 64) - 1


def draws(seed: int, position: int, stream: str) -> np.random.Generator:
    """A generator for one purpose (`stream`) at one position: the counter-based Philox, keyed by all three.

    Two generators with different (seed, position, stream) never share a number: seed and stream are the key,
    the position is the upper half of the 256-bit counter.
    """
    key = np.array([seed & _MASK64, zlib.crc32(stream.encode())], dtype=np.uint64)
    counter = np.array([0, 0, position & _MASK64, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def permuted(position_in_epoch: npt.ArrayLike, epoch: npt.ArrayLike, n: int, seed: int) -> Int64s:
    """Where each position of an epoch lands under that epoch's random order of n samples.

    For fixed epoch and seed a bijection of [0, n), in O(1) memory: a Feistel network over the smallest power
    of two that holds n, with cycle walking back into [0, n) (at most two walks an element on average).

    Args:
        position_in_epoch: integers in [0, n), any shape.
        epoch: one for all, or one for each position.
        n: number of samples, 1 to 2**40.

    Returns: int64, the broadcast shape of the two.
    """
    assert 1 <= n <= 1 << 40, n
    positions, epochs = np.broadcast_arrays(np.asarray(position_in_epoch), np.asarray(epoch))
    if positions.size and (int(positions.min()) < 0 or int(positions.max()) >= n):
        raise AssertionError(f"positions must be in [0, {n})")
    value = positions.astype(np.uint64).reshape(-1)
    # Only the seed is mixed before the two are joined: mixed alike, epoch a of seed b would be epoch b of seed a.
    key = _mixed(epochs.astype(np.uint64).reshape(-1) + np.uint64(_seed_key(seed)))
    value = _feistel(value, key, n)
    outside = np.flatnonzero(value >= n)
    while outside.size:
        value[outside] = _feistel(value[outside], key[outside], n)
        outside = outside[value[outside] >= n]
    return value.astype(np.int64).reshape(positions.shape)


def uniform(positions: Int64s, seed: int, stream: str) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each position; the vectorised little sister of `draws`."""
    key = np.uint64(_seed_key(seed ^ (zlib.crc32(stream.encode()) << 20)))
    return (_mixed(_mixed(positions.astype(np.uint64) + key)) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _feistel(value: UInt64s, key: UInt64s, n: int) -> UInt64s:
    """One pass over [0, 2**bits): each half (unequal for odd bits) in turn xored with a hash of the other."""
    bits = (n - 1).bit_length()
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    high, low = value >> low_bits, value & low_mask
    for r in range(ROUNDS):
        round_key = _mixed(key + np.uint64((r + 1) * 0xD1B54A32D192ED03 & _MASK64))
        if r % 2 == 0:
            high = high ^ (_mixed(low ^ round_key) >> np.uint64(24) & high_mask)
        else:
            low = low ^ (_mixed(high ^ round_key) >> np.uint64(24) & low_mask)
    return (high << low_bits) | low


def _mixed(x: UInt64s) -> UInt64s:
    """SplitMix64 (Steele, Lea, Flood 2014): each input bit flips each output bit half the time."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _seed_key(seed: int) -> int:
    # An array, because numpy warns of the intended overflow for scalars.
    return int(_mixed(np.array([seed & _MASK64], dtype=np.uint64))[0])
