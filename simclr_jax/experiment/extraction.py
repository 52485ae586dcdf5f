"""Features of all pictures of a source, by the network of a run."""

from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax.batch import Batch
from simclr_jax.data import pipeline
from simclr_jax.data.sources import Source
from simclr_jax.evaluate.features import Features, FrozenEncoder, extract
from simclr_jax.experiment import build
from simclr_jax.methods.layers import select
from simclr_jax.state import TrainState


def features(
    c: ConfigDict,
    run: build.Run,
    state: TrainState,
    source: Source,
    mesh: Mesh,
    on_progress: Callable[[], None] = lambda: None,
) -> Features:
    """Features of all pictures of a source, from the branch `Method.keep`.

    Args:
      on_progress: called once per batch.
    """
    return extracted(c, frozen_encoder(run, state), source, mesh, on_progress)


def extracted(
    c: ConfigDict,
    encoder: FrozenEncoder,
    source: Source,
    mesh: Mesh,
    on_progress: Callable[[], None] = lambda: None,
) -> Features:
    """Features of all pictures of a source by an encoder.

    Args:
      on_progress: called once per batch.
    """
    batches = pipeline.eval_batches(
        source,
        size=c.data.image_size,
        batch_size=-(-c.evaluate.batch_size // mesh.size) * mesh.size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return extract(encoder, _reported(batches, on_progress), mesh)


def frozen_encoder(
    run: build.Run, state: TrainState, names: tuple[str, ...] = ()
) -> FrozenEncoder:
    """The branch `Method.keep` of a state, for computing features.

    Args:
      names: of the features, also of `layers.layer_names`; (): those of the method.
    """
    method = run.method
    functions = method.network.encode, method.features
    if names:
        functions = select(method, names)
    return FrozenEncoder(*functions, *method.kept(state))


def _reported(
    batches: Iterable[Batch], on_progress: Callable[[], None]
) -> Iterator[Batch]:
    for batch in batches:
        on_progress()
        yield batch


def pixels(c: ConfigDict, source: Source) -> np.ndarray:
    """All pictures as the encoder gets them: float32 [N, H * W * 3] in [0, 1]."""
    batches = pipeline.eval_batches(
        source, size=c.data.image_size, batch_size=c.evaluate.batch_size
    )
    rows = [batch.views[0][batch.valid] for batch in batches]
    return np.concatenate(rows).reshape(len(source), -1) / np.float32(255)
