"""Exports the network of a work directory in a foreign format."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from simclr_jax import sharding
from simclr_jax.experiment import build, schema
from simclr_jax.experiment.config import Changes
from simclr_jax.experiment.workdir import SavedRun, data_sizes, open_saved
from simclr_jax.methods.base import Method
from simclr_jax.models.positions import sincos
from simclr_jax.tree import by_path, nested
from simclr_jax.zoo import card, catalog, export
from simclr_jax.zoo.export import ExportResult
from simclr_jax.zoo.network import ExportedNetwork
from simclr_jax.zoo.verification.verify import verification_batches

MODULES = {  # modules of a network, by the part to export
    "encoder": ("encoder",),
    "encoder+head": ("encoder", "projector"),
    "encoder+classifier": ("encoder", "probe"),
}


class ReadNetwork(NamedTuple):
    """A network to export, and the data to verify and describe the export."""

    network: ExportedNetwork
    expected: list[dict[str, np.ndarray]]  # outputs for each of `verification_batches`
    run: dict  # see `card.of_run`


def export_network(
    workdir: str,
    format: str,
    out: str,
    part: str = "encoder",
    input: str = "",
    licence: str = "",
    changes: Changes = (),
) -> ExportResult:
    """Writes the newest checkpoint of a work directory in a foreign format.

    It is the branch `Method.keep`, in float32 whatever dtype it was trained in. The
    file is verified in its own runtime before it is renamed to `out`, see
    `export.write`.

    Args:
      workdir: of a run, finished or not, or of an import.
      format: one of `catalog.WRITERS`.
      out: a new file or folder, on this machine or in a bucket.
      part: one of `catalog.PARTS`.
      input: one of `catalog.INPUTS`; "" is "float", or "normalised" for a format that
        holds arrays only.
      licence: for the card; "" is "not stated".
      changes: the names of factories from outside, as in `saved_config`.

    Raises:
      ValueError: an option is wrong, there is no checkpoint or it lacks the part, the
        format cannot hold this network, or the verification failed.
      CheckpointError: the checkpoint cannot be read.
    """
    input = catalog.check_options(format, part, input)
    export.check_new(out)
    network, expected, run = read_network(workdir, format, part, input, tuple(changes))
    network = network._replace(licence=licence)
    return export.write(network, expected, run, format, out)


def read_network(
    workdir: str, format: str, part: str, input: str, changes: Changes = ()
) -> ReadNetwork:
    """The network of a work directory, for an export with these options.

    Raises:
      ValueError: there is no checkpoint, or it lacks the part.
      CheckpointError: the checkpoint cannot be read.
    """
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        saved = open_saved(workdir, mesh, [("encoder.dtype", "float32"), *changes])
    _check_part(saved, workdir, format, part)
    c, method = saved.config, saved.run.method
    image_size, mean, std = c.data.image_size, c.encoder.mean, c.encoder.std
    arrays = _arrays(saved)
    forward = _forward(method, arrays, part)
    expected = _outputs(forward, arrays, verification_batches(image_size))
    if input == "normalised":
        c.encoder.mean, c.encoder.std = (0.0,) * 3, (1.0,) * 3
        unscaled = build.build_method(c, **data_sizes(workdir))
        forward = _forward(unscaled, arrays, part)
    encoder = schema.call("encoder", c.encoder)
    part_arrays = {k: x for k, x in arrays.items() if k.split("/")[1] in MODULES[part]}
    network = ExportedNetwork(
        part_arrays | _positions(encoder, image_size, format),
        forward,
        encoder,
        c.encoder.name,
        mean,
        std,
        image_size,
        part,
        input,
    )
    run = card.of_run(epath.Path(workdir), method.keep, saved.step)
    if part == "encoder+classifier" and not run["imported"]:
        run["training"]["classifier"] = "trained online on h of the online branch"
    return ReadNetwork(network, expected, run)


def _check_part(saved: SavedRun, workdir: str, format: str, part: str) -> None:
    """Raises a ValueError unless the run has the part and the format can hold it."""
    dino = saved.config.method.name == "dino"
    if format in catalog.TORCH and part == "encoder+head" and dino:
        raise ValueError(
            "DINO's head ends with a normalisation that is no PyTorch module, so "
            f"{format} cannot hold it. Use onnx, savedmodel or stablehlo, or "
            "--part=encoder."
        )
    if part == "encoder+head" and "z" not in build.feature_names(
        saved.config, saved.run
    ):
        raise ValueError(
            f"{workdir} has no z: method.name={saved.config.method.name} has no "
            "projection. Use --part=encoder."
        )
    if part == "encoder+classifier" and "probe" not in saved.state.params:
        raise ValueError(
            f"{workdir} has no classifier: its run had no labels or probe.enabled was "
            "off. Use --part=encoder."
        )


def _arrays(saved: SavedRun) -> dict[str, np.ndarray]:
    """params/... and batch_stats/... of the branch to keep, with the classifier."""
    params, stats = saved.run.method.kept(saved.state)
    if "probe" in saved.state.params:
        params = params | {"probe": saved.state.params["probe"]}
    tree = by_path({"params": params, "batch_stats": stats})
    return {path: np.asarray(x) for path, x in tree.items()}


def _forward(method: Method, arrays: dict[str, np.ndarray], part: str) -> Callable:
    """(arrays, images [N, S, S, 3]) -> the part's outputs, {name: [N, D]}.

    The function replaces missing arrays by zeros: no output of the part depends on
    them.
    """
    shapes = {path: x.shape for path, x in arrays.items()}

    def forward(arrays, images):
        full = {k: arrays[k] if k in arrays else jnp.zeros(shapes[k]) for k in shapes}
        tree = nested(full)
        params, stats = tree["params"], tree.get("batch_stats", {})
        probe = params.pop("probe", None)
        features = method.features(method.network.encode(params, stats, images))
        # Indexing would become a gather where the batch size is symbolic.
        outputs = {name: jnp.squeeze(x, 0) for name, x in features.items()}
        if part == "encoder+head":
            return outputs
        if part == "encoder+classifier":
            outputs["logits"] = outputs["h"] @ probe["kernel"] + probe["bias"]
        return {name: outputs[name] for name in catalog.PARTS[part]}

    return forward


def _outputs(
    forward: Callable, arrays: dict[str, np.ndarray], batches: list[np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """The outputs for each batch, computed as one batch: rows are independent."""
    with jax.default_matmul_precision("highest"):
        outputs = jax.device_get(jax.jit(forward)(arrays, np.concatenate(batches)))
    ends = np.cumsum([len(images) for images in batches])[:-1]
    columns = {name: np.split(y, ends) for name, y in outputs.items()}
    return [{name: y[i] for name, y in columns.items()} for i in range(len(batches))]


def _positions(encoder: Any, image_size: int, format: str) -> dict[str, np.ndarray]:
    """The fixed position embeddings, for libraries that only have learned ones."""
    if format not in catalog.TORCH or getattr(encoder, "position_kind", "") != "sincos":
        return {}
    count = image_size // encoder.patch_side
    return {"params/encoder/positions": sincos(count, count, encoder.dim)[None]}
