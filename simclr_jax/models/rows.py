"""What layers must know of the training batch that their rows are a part of."""

from typing import NamedTuple

import jax


class Rows(NamedTuple):
    """Passed down with the activations of n rows; the defaults are a whole batch."""

    # int [n], the numbers of these rows in the whole batch: stochastic depth draws by
    # image. None: 0 to n - 1.
    index: jax.Array | None = None
    # int [n], a permutation: the position that each row would have in a shuffled batch.
    # It decides which rows share batch-norm statistics, while the rows stay on their
    # devices (MoCo, arXiv:1911.05722, section 3.3). None: they are not shuffled.
    shuffle: jax.Array | None = None
    # Batch norm keeps momentum ** momentum_power of its running statistics at a pass.
    momentum_power: float = 1.0


WHOLE = Rows()
