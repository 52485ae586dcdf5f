"""What layers need to know about the training batch that contains their rows."""

from typing import NamedTuple

import jax


class Rows(NamedTuple):
    """Passed to layers with the activations of n rows; by default a whole batch."""

    # int [n], the numbers of these rows in the whole batch, from which stochastic depth
    # derives the key of each row. None: 0 to n - 1.
    index: jax.Array | None = None
    # int [n], a permutation: the position that each row would have in a shuffled batch.
    # It decides which rows share batch-norm statistics, while the rows stay on their
    # devices (MoCo, arXiv:1911.05722, section 3.3). None: they are not shuffled.
    shuffle: jax.Array | None = None
    # Batch norm updates its running statistics with momentum ** momentum_power.
    momentum_power: float = 1.0


WHOLE = Rows()
