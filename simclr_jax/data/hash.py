"""Pseudorandom numbers by hashing: the finaliser of splitmix64."""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 in which every output bit depends on every input bit.

    Arrays only: they wrap around without the warning that numpy's scalars cause.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
