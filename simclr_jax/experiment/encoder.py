"""A trained encoder as a function of pictures."""

import functools
import os
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import sharding
from simclr_jax.batch import Batch
from simclr_jax.data import pipeline
from simclr_jax.data.pictures import picture_batches
from simclr_jax.data.sources import Source
from simclr_jax.evaluate.features import Features, extract
from simclr_jax.experiment import build, importing, schema
from simclr_jax.experiment.config import Changes
from simclr_jax.experiment.extraction import frozen_encoder
from simclr_jax.experiment.workdir import SavedRun, open_saved, read_saved
from simclr_jax.methods.layers import is_token, layer_names, select
from simclr_jax.storage.paths import absolute
from simclr_jax.suggest import check_name
from simclr_jax.zoo import catalog

BATCH_SIZE = 256
EMPTY = "There are no pictures: the list is empty."


def load(
    path: str | os.PathLike, *, format: str = "", allow_code: bool = False
) -> "Encoder":
    """Loads the encoder of a run, or of a published file.

    Args:
      path: a work directory with a checkpoint, on this machine or in a bucket; or, with
        `format`, a published file (or the folder or prefix, for a format of several
        files), of which nothing is written.
      format: "", or the format of the file as in `simclr-jax zoo list`, such as "dino".
      allow_code: whether to import a method, encoder or recipe of views from outside
        this package that the work directory names. Such code can do anything.

    Raises:
      CodeNotNamed: the run needs such code, and it is not allowed.
      ValueError: there is no run or no checkpoint yet; the format is unknown, or the
        file does not match it.
      CheckpointError: the checkpoint cannot be read.
    """
    if jax.process_count() > 1:
        raise ValueError("An encoder is loaded by one process, not by a cluster.")
    path = absolute(os.fspath(path))
    if format:
        check_name(format, catalog.READERS, "format")
        imported, arrays, result = importing.read_checkpoint(format, path, [])
        state = importing.finished_state(imported, arrays)
        saved = SavedRun(imported.config, imported.run, state, imported.run.total)
        source = f"{path} ({format})"
        return Encoder(saved, sharding.make_mesh(), source, result.newly_initialised)
    if epath.Path(path).is_file():
        raise ValueError(
            f"{path} is a file, no work directory. For a published one, name its "
            f"format, load(path, format=...): {', '.join(catalog.READERS)}."
        )
    return open_encoder(path, allow_code=allow_code)


def open_encoder(
    workdir: str, changes: Changes = (), *, allow_code: bool = False
) -> "Encoder":
    """The encoder of a run.

    Args:
      workdir: an absolute path.
      changes, allow_code: as in `workdir.saved_config`.

    Raises:
      ValueError, CheckpointError: as in `workdir.open_saved`.
    """
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        saved = open_saved(workdir, mesh, changes, allow_code=allow_code)
    imported = (epath.Path(workdir) / "import.json").exists()
    untrained = read_saved(workdir, "import.json")["fresh"] if imported else ()
    return Encoder(saved, mesh, workdir, untrained)


class Encoder:
    """A trained encoder; `encoder(pictures)` computes their features.

    It is the branch that evaluation uses (`Method.keep`), in evaluation mode: nothing
    is dropped, and batch norm uses the statistics of the training.

    Attributes:
      config: of the run.
      size: S; the encoder is for pictures of S x S pixels.
      mean, std: per channel, of pixels in [0, 1]; the encoder applies them itself.
      features: the names of the method's features, "h" first.
      layers: the names of those that the network has beside them, such as "cls" and
        "patch" (the mean of the patches) of a ViT; see `methods.layers`.
      mesh: of the devices.
      module: the Flax module of the encoder alone.
      step: updates of the run.
      source: the work directory or file.
    """

    def __init__(
        self, saved: SavedRun, mesh: Mesh, source: str, untrained: Collection[str] = ()
    ):
        """See `load`.

        Args:
          untrained: layers that were not in an imported file.
        """
        c, run = saved.config, saved.run
        self.config: ConfigDict = c
        self.size: int = c.data.image_size
        self.mean: tuple[float, ...] = c.encoder.mean
        self.std: tuple[float, ...] = c.encoder.std
        self.features = build.feature_names(c, run)
        names = layer_names(run.method.network)
        self.layers = tuple(name for name in names if name not in self.features)
        self.step, self.source = saved.step, source
        self.mesh: Mesh = mesh
        self._method, self._width = run.method, run.method.network.width
        self._frozen = frozen_encoder(run, saved.state).on(mesh)
        self.module = schema.call("encoder", c.encoder)
        self._stats = jax.device_get(self._frozen.stats.get("encoder", {}))
        params = "params" if run.method.keep == "online" else "target_params"
        self._untrained_head = any(
            layer.startswith(f"{params}/projector") for layer in untrained
        )

    def __repr__(self) -> str:
        return (
            f"Encoder({self.config.encoder.name}, {self.size} x {self.size} pixels -> "
            f"h [N, {self._width}], {self.config.method.name} after {self.step} steps, "
            f"from {self.source})"
        )

    def __call__(
        self, pictures: Any, *, feature: str = "h", batch_size: int = BATCH_SIZE
    ) -> np.ndarray:
        """The features of pictures, as evaluation computes them.

        Each picture is cropped to the central 7/8 of its shorter side and resized
        (bicubic) to S x S; for S <= 32, nothing is cropped.

        Args:
          pictures: an array [N, H, W, 3], uint8 or float in [0, 1]; or a list of
            pictures of any sizes, each an array [H, W, 3] or the path of a file, on
            this machine or in a bucket. A generator is consumed as needed, so its
            pictures need not fit into memory together.
          feature: "h", for most methods "z", its projection, or another one of
            `features` and `layers`.
          batch_size: pictures that are computed at a time. Fewer pictures are padded
            to a power of two, so that few programs are compiled.

        Returns:
          float32 [N, F], in the order of the pictures.

        Raises:
          ValueError: there are no pictures, or one has another shape or dtype, or
            values outside [0, 1]; or the encoder has no such trained feature.
          UnreadablePicture: a file cannot be read; the message names it.
        """
        self.check_feature(feature)
        rows = self._rows(pictures, batch_size)
        batches = picture_batches(pictures, size=self.size, batch_size=rows)
        return self._extract(feature, batches).values[feature]

    def of_source(
        self,
        source: Source,
        feature: str = "h",
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Features:
        """The features of all pictures of a source, prepared as for a call.

        Args:
          feature: as for a call.
          progress: called with the pictures read so far and the total.

        Raises:
          ValueError: the encoder has no such trained feature.
          UnreadablePicture: a picture cannot be read; the message names it.
        """
        self.check_feature(feature)
        rows = self._rows(source, BATCH_SIZE)

        def batches():
            parts = pipeline.eval_batches(source, size=self.size, batch_size=rows)
            for i, batch in enumerate(parts, start=1):
                progress(min(i * rows, len(source)), len(source))
                yield batch

        return self._extract(feature, batches())

    def check_feature(self, feature: str) -> None:
        """Checks that the encoder has a feature.

        Raises:
          ValueError: it has none of this name, or an imported file lacked its layers.
        """
        check_name(feature, (*self.features, *self.layers), "feature")
        if self._untrained_head and feature != "h" and not is_token(feature):
            raise ValueError(
                f"{feature} is untrained: the imported file had no projector. h is not."
            )

    def _extract(self, feature: str, batches: Iterable[Batch]) -> Features:
        frozen = self._frozen
        if feature in self.layers:
            encode, features = select(self._method, [feature])
            frozen = frozen._replace(encode=encode, features=features)
        with jax.set_mesh(self.mesh):
            return extract(frozen, batches, self.mesh)

    def prepare(self, pictures: Any) -> np.ndarray:
        """Pictures as the encoder sees them, cropped and resized, such as for `apply`.

        Args:
          pictures: as for a call of the encoder.

        Returns:
          uint8 [N, S, S, 3].

        Raises:
          ValueError, UnreadablePicture: as for a call of the encoder.
        """
        batches = picture_batches(pictures, size=self.size, batch_size=BATCH_SIZE)
        parts = [batch.views[0][batch.valid] for batch in batches]
        if not parts:
            raise ValueError(EMPTY)
        return np.concatenate(parts)

    def _rows(self, pictures: Any, batch_size: int) -> int:
        """The rows of a batch: a multiple of the number of devices."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be above 0.")
        if isinstance(pictures, str | os.PathLike):
            batch_size = 1
        elif hasattr(pictures, "__len__"):
            if not len(pictures):
                raise ValueError(EMPTY)
            batch_size = min(batch_size, 2 ** (len(pictures) - 1).bit_length())
        return -(-batch_size // self.mesh.size) * self.mesh.size

    @property
    def variables(self) -> dict[str, Any]:
        """What `module.apply` takes, on every device of the mesh."""
        frozen = self._frozen
        stats = frozen.stats.get("encoder", {})
        return {"params": frozen.params["encoder"], "batch_stats": stats}

    @functools.cached_property
    def params(self) -> Any:
        """The trainable parameters of the encoder alone, for `apply`.

        Nested dicts of float32 arrays, committed to no device.
        """
        params = jax.device_get(self._frozen.params["encoder"])
        with jax.ensure_compile_time_eval():  # they outlive a trace that asks for them
            return jax.tree.map(jnp.asarray, params)

    def apply(self, params: Any, images: Any) -> jax.Array:
        """h of images of the encoder's size, for one's own jit, grad and fine-tuning.

        A pure function of its arguments: `jax.jit(encoder.apply)(encoder.params, x)`.
        Batch norm keeps its statistics.

        Args:
          params: as `params`.
          images: [N, S, S, 3], uint8 or float in [0, 1]; the values of floats are not
            checked.

        Returns:
          float32 [N, F].

        Raises:
          ValueError: images of another shape or dtype.
        """
        shape = (self.size, self.size, 3)
        if images.ndim != 4 or images.shape[1:] != shape:
            raise ValueError(
                f"apply takes images [N, {', '.join(map(str, shape))}]; got "
                f"{list(images.shape)}. encoder(pictures) resizes them."
            )
        variables = {"params": params, "batch_stats": self._stats}
        return self.module.apply(variables, images, train=False).astype(jnp.float32)
