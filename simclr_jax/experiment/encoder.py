"""A trained encoder as a function of pictures."""

import functools
import inspect
import os
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import sharding
from simclr_jax.data.pictures import picture_batches
from simclr_jax.evaluate.features import extract
from simclr_jax.experiment import build, importing, schema
from simclr_jax.experiment.config import Changes
from simclr_jax.experiment.extraction import frozen_encoder
from simclr_jax.experiment.workdir import SavedRun, open_saved, read_saved
from simclr_jax.models.spatial import Spatial
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
      features: the names of the features, "h" first.
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
        self.step, self.source = saved.step, source
        self._mesh, self._width = mesh, run.method.network.width
        self._frozen = frozen_encoder(run, saved.state).on(mesh)
        self._module = schema.call("encoder", c.encoder)
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
          feature: one of `features`: "h", or for most methods "z", its projection.
          batch_size: pictures that are computed at a time. Fewer pictures are padded
            to a power of two, so that few programs are compiled.

        Returns:
          float32 [N, F], in the order of the pictures.

        Raises:
          ValueError: there are no pictures, or one has another shape or dtype, or
            values outside [0, 1]; or the encoder has no such trained feature.
          UnreadablePicture: a file cannot be read; the message names it.
        """
        check_name(feature, self.features, "feature")
        if feature != "h" and self._untrained_head:
            raise ValueError(
                f"{feature} is untrained: the imported file had no projector. h is not."
            )
        rows = self._rows(pictures, batch_size)
        batches = picture_batches(pictures, size=self.size, batch_size=rows)
        with jax.set_mesh(self._mesh):
            return extract(self._frozen, batches, self._mesh).values[feature]

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
        return -(-batch_size // self._mesh.size) * self._mesh.size

    def spatial(self, images: np.ndarray) -> Spatial:
        """Features and attention at every position of images of one size, of any size.

        Learned positions of a ViT are resampled for it.

        Args:
          images: [N, H, W, 3], uint8 or float in [0, 1]; H and W are multiples of
            `multiple`.

        Returns:
          Spatial of numpy arrays, float32.

        Raises:
          ValueError: the encoder has no such features, or the sides are others.
        """
        if "spatial" not in inspect.signature(type(self._module).__call__).parameters:
            raise ValueError(
                f"encoder.name={self.config.encoder.name} has no features by position: "
                "it has no argument `spatial`, as this package's encoders have."
            )
        count, devices = len(images), self._mesh.size
        padded = np.zeros((-(-count // devices) * devices, *images.shape[1:]))
        padded = padded.astype(images.dtype)
        padded[:count] = images
        variables = {"params": self._frozen.params["encoder"]}
        variables["batch_stats"] = self._frozen.stats.get("encoder", {})
        x = jax.device_put(padded, sharding.by_batch(self._mesh))
        result = jax.device_get(_spatial(self._module, variables, x))
        return jax.tree.map(lambda y: y[:count], result)

    @property
    def multiple(self) -> int:
        """What divides the sides of the images that `spatial` takes; of a ViT P."""
        return getattr(self._module, "patch_side", 1)

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
        return self._module.apply(variables, images, train=False).astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def _spatial(module, variables, images):
    return module.apply(variables, images, train=False, spatial=True)[1]
