"""What a work directory has learnt, taken out in a format that others read."""

import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from simclr_jax import sharding
from simclr_jax.experiment import build, config
from simclr_jax.experiment.importing import fingerprint
from simclr_jax.models.positions import sincos
from simclr_jax.storage import bucket
from simclr_jax.storage.paths import in_bucket
from simclr_jax.suggest import check_name
from simclr_jax.train.checkpoint import restore_latest
from simclr_jax.tree import by_path, nested
from simclr_jax.zoo import card
from simclr_jax.zoo.native.arrays import write_numpy, write_orbax
from simclr_jax.zoo.native.stablehlo import write_stablehlo
from simclr_jax.zoo.network import INPUTS, PARTS, Network, Written
from simclr_jax.zoo.onnx.write import write_onnx
from simclr_jax.zoo.tensorflow.write import write_savedmodel, write_tflite
from simclr_jax.zoo.torch.write import write_huggingface, write_timm, write_torchvision
from simclr_jax.zoo.verification.verify import batches, verify

WRITERS: dict[str, Callable[[Network, pathlib.Path], Written]] = {
    "torchvision": write_torchvision,
    "timm": write_timm,
    "huggingface": write_huggingface,
    "savedmodel": write_savedmodel,
    "tflite": write_tflite,
    "onnx": write_onnx,
    "stablehlo": write_stablehlo,
    "orbax": write_orbax,
    "numpy": write_numpy,
}
TORCH = ("torchvision", "timm", "huggingface")
ARRAYS = (*TORCH, "orbax", "numpy")  # which hold no arithmetic before the encoder


INSIDE = {  # of the network, by part
    "encoder": ("encoder",),
    "encoder+head": ("encoder", "projector"),
    "encoder+classifier": ("encoder", "probe"),
}


class Exported(NamedTuple):
    """What was written."""

    path: str
    format: str
    part: str
    bytes: int
    checked: str  # by whom, and the largest difference
    limits: tuple[str, ...]  # what a user should know


def take_out(
    workdir: str,
    to: str,
    out: str,
    part: str = "encoder",
    input: str = "",
    licence: str = "",
) -> Exported:
    """Writes the newest checkpoint of a work directory in a foreign format.

    It is the branch that the method keeps, in float32 whatever it was trained in.
    Before `out` is there, its own runtime has loaded it in another process and said
    the same of pictures and of noise as the network here, to 1e-5 of the largest value.
    A card, .card.json and .card.md, lies beside a file and in a folder.

    Args:
      workdir: of a run, finished or not, or what an import wrote.
      to: one of WRITERS.
      out: a file or folder that is not there yet, on this machine or in a bucket.
      part: one of PARTS.
      input: one of INPUTS; "" is "float", or "normalised" where the format holds arrays
        alone and nothing else can be.
      licence: what the card says of it; "" is that nobody stated one.

    Raises:
      ValueError: a word is unknown, there is no checkpoint, the part is not in it, the
        format cannot hold this network, or what was written did not pass.
      CheckpointError: the checkpoint cannot be read.
    """
    if in_bucket(out):
        return _into_bucket(workdir, to, out, part, input, licence)
    check_name(to, WRITERS, "--to")
    check_name(part, PARTS, "--part")
    input = _input(to, input)
    path = pathlib.Path(out)
    if path.exists():
        raise ValueError(f"{out} is there already; take another --out.")
    network, expected, about = read(workdir, to, part, input)
    network = network._replace(licence=licence)
    half = path.with_name(f".{path.name}.half")  # nobody sees half an export
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(half)  # of one that was stopped
    try:
        return _write(network, expected, about, to, half, path)
    finally:
        _remove(half)


def _into_bucket(workdir: str, to: str, out: str, *options: str) -> Exported:
    """Writes and checks on this machine, then copies: the export, and a card beside."""
    if bucket.find(out):
        raise ValueError(f"{out} is there already; take another --out.")
    above, _, name = out.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="simclr_jax_export_") as folder:
        done = take_out(workdir, to, f"{folder}/{name}", *options)
        for file in pathlib.Path(folder).iterdir():
            bucket.upload(file, f"{above}/{file.name}")
    return done._replace(path=out)


def _input(to: str, said: str) -> str:
    if to in ARRAYS and said:
        raise ValueError(
            f"--input={said}: {to} holds arrays alone, nothing that could prepare "
            "pictures; leave it out, and see mean and std in the card. savedmodel, "
            "tflite, onnx and stablehlo take it."
        )
    if said:
        check_name(said, INPUTS, "--input")
    return said or ("normalised" if to in ARRAYS else "float")


def _write(network: Network, expected, about, to: str, half, path) -> Exported:
    """Writes, checks and renames; what does not pass never gets its name."""
    written = WRITERS[to](network, half)
    try:
        verdict = verify(written, half, network, batches(network.side), expected)
    except ValueError as error:
        raise ValueError(f"{path} was written and deleted again: {error}") from error
    content = card.contents(to, network, written, verdict, expected[0], about)
    content["fingerprints"] |= _fingerprints(half, path.name)
    size = sum(file.stat().st_size for file in _files(half))
    _lay_card(content, written, half, path)
    half.rename(path)
    checked = card.checked(content["verified"])
    return Exported(str(path), to, network.part, size, checked, written.limits)


def _lay_card(content: dict, written: Written, half, path) -> None:
    """Into a folder, or beside a file."""
    inside = half.is_dir()
    start = f"{half}/" if inside else f"{path}."
    readme = f"{start}card.md" if not written.front else f"{start}README.md"
    pathlib.Path(f"{start}card.json").write_text(json.dumps(content, indent=2) + "\n")
    pathlib.Path(readme).write_text(written.front + card.text(content, path.name))


def _fingerprints(half: pathlib.Path, name: str) -> dict[str, str]:
    """SHA-256 of the file, or of each file of the folder, by its name when done."""
    names = {
        file: f"{name}/{file.relative_to(half)}" if file != half else name
        for file in _files(half)
    }
    return {name: fingerprint(str(file)) for file, name in sorted(names.items())}


def _files(path: pathlib.Path) -> Iterable[pathlib.Path]:
    return [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def read(workdir: str, to: str, part: str, input: str):
    """The network of a work directory, what it says, and what the run says of itself.

    Returns:
      (Network, outputs for each of `verify.batches`, `card.of_run`).

    Raises:
      ValueError: as `take_out`.
      CheckpointError: the checkpoint cannot be read.
    """
    c = config.restored(build.read_saved(workdir))
    if (to in TORCH, part, c.method.name) == (True, "encoder+head", "dino"):
        raise ValueError(
            f"DINO's head ends on a sphere, which no module of PyTorch does: {to} has "
            "no place for it. Take onnx, savedmodel or stablehlo, or --part=encoder."
        )
    c.encoder.dtype = "float32"
    mean, std = c.encoder.mean, c.encoder.std
    job, params, stats, step = _kept(c, workdir)
    full = by_path({"params": params, "batch_stats": stats})
    full = {path: np.asarray(x) for path, x in full.items()}
    if part == "encoder+classifier" and "params/probe/kernel" not in full:
        raise ValueError(
            f"{workdir} has no classifier: its run had no labels or probe.enabled was "
            "off. Take --part=encoder."
        )
    expected = _ask(_forward(job, full, part), full, batches(c.data.image_size))
    if input == "normalised":
        c.encoder.mean, c.encoder.std = (0.0,) * 3, (1.0,) * 3
        job = _assembled(c, workdir)
    encoder = config.build("encoder", c)
    own = {k: x for k, x in full.items() if k.split("/")[1] in INSIDE[part]}
    network = Network(
        own | _positions(encoder, c.data.image_size, to),
        _forward(job, full, part),
        encoder,
        c.encoder.name,
        mean,
        std,
        c.data.image_size,
        part,
        input,
    )
    about = card.of_run(epath.Path(workdir), job.method.keep, step)
    if part == "encoder+classifier" and not about["imported"]:
        about["training"]["classifier"] = "learnt online from h of the online branch"
    return network, expected, about


def _assembled(c, workdir: str) -> build.Run:
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        return build.assemble(c, mesh, **build.sizes(workdir))


def _kept(c, workdir: str):
    """The run, and the branch to keep with the run's classifier: job, params, stats."""
    job = _assembled(c, workdir)
    folder = epath.Path(workdir) / "checkpoints"
    state, step = restore_latest(folder, build.abstract(job))
    params, stats = job.method.kept(state)
    if "probe" in state.params:
        params = params | {"probe": state.params["probe"]}
    return job, params, stats, step


def _forward(job: build.Run, full: dict[str, np.ndarray], part: str) -> Callable:
    """(arrays, images) -> the part's outputs.

    Arrays that are not given are zeros: no output of the part depends on them.
    """
    shapes = {path: x.shape for path, x in full.items()}

    def forward(arrays, images):
        every = {k: arrays[k] if k in arrays else jnp.zeros(shapes[k]) for k in shapes}
        tree = nested(every)
        params, stats = tree["params"], tree.get("batch_stats", {})
        probe = params.pop("probe", None)
        y = job.method.network.encode(params, stats, images)
        # An index would be a gather wherever the number of pictures is free.
        outputs = {"h": jnp.squeeze(y.h, 0), "z": jnp.squeeze(y.z, 0)}
        if part == "encoder+classifier":
            outputs["logits"] = outputs["h"] @ probe["kernel"] + probe["bias"]
        return {name: outputs[name] for name in PARTS[part]}

    return forward


def _ask(forward: Callable, full: dict, asked: list[np.ndarray]) -> list[dict]:
    """What the network says of each batch; rows do not see each other."""
    with jax.default_matmul_precision("highest"):
        said = jax.device_get(jax.jit(forward)(full, np.concatenate(asked)))
    ends = np.cumsum([len(x) for x in asked])[:-1]
    columns = {name: np.split(y, ends) for name, y in said.items()}
    return [{name: y[i] for name, y in columns.items()} for i in range(len(asked))]


def _positions(encoder, side: int, to: str) -> dict[str, np.ndarray]:
    """The fixed positions, for libraries that have only learned ones."""
    if to not in TORCH or getattr(encoder, "position_kind", "") != "sincos":
        return {}
    count = side // encoder.patch_side
    return {"params/encoder/positions": sincos(count, count, encoder.dim)[None]}
