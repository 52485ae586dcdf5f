"""Runs an exported file in its own runtime and compares it with the Flax network."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from typing import NamedTuple

import numpy as np

from simclr_jax.zoo.name_map import abbreviate
from simclr_jax.zoo.network import ExportedFile, ExportedNetwork, installed

TOLERANCE = 1e-5  # for the largest difference, relative to the largest value
NOISE_BATCHES = (1, 3, 4)  # sizes of the batches of noise after the sample images
ROOT = pathlib.Path(__file__).parents[3]


class Verification(NamedTuple):
    """The result of a successful comparison."""

    difference: float  # largest, relative to the largest value; 0.0 for equal arrays
    versions: dict[str, str]  # of the packages that read the file
    batch_sizes: tuple[int, ...]  # (): only arrays were compared
    not_installed: tuple[str, ...] = ()  # packages that could have run the file


def sample_images(side: int) -> np.ndarray:
    """Three images that are easy to draw again: uint8 [3, side, side, 3]."""
    y, x = np.indices((side, side)) * 256 // side
    ramps = y, x, (x + y) // 2
    checks = (x // 32 + y // 32) % 2 * 255, x // 64 * 85, y // 64 * 85
    rings = [((x - a) ** 2 + (y - 128) ** 2) // 64 % 256 for a in (64, 128, 192)]
    images = [np.stack(channels, -1) for channels in (ramps, checks, rings)]
    return np.stack(images).astype(np.uint8)


def verification_batches(side: int) -> list[np.ndarray]:
    """The sample images, then batches of noise: uint8 [n, side, side, 3]."""
    draw = np.random.default_rng(0)
    shapes = [(n, side, side, 3) for n in NOISE_BATCHES]
    noise = [draw.integers(0, 256, shape).astype(np.uint8) for shape in shapes]
    return [sample_images(side), *noise]


def verify(
    file: ExportedFile,
    path: pathlib.Path,
    network: ExportedNetwork,
    batches: list[np.ndarray],
    expected: list[dict[str, np.ndarray]],
) -> Verification:
    """Loads the file in each of its ways, in separate processes, and compares.

    For a PyTorch file, ways that need a package that is not installed are skipped; if
    none is left, only the arrays are compared.

    Args:
      batches: uint8 images [n, S, S, 3].
      expected: outputs of the Flax network for each batch, {"h": [n, F], ...}.

    Raises:
      ValueError: the file cannot be read by its runtime, or its outputs differ.
    """
    ways = [file, *file.alternatives]
    not_installed = [
        package
        for way in ways
        for package in way.packages
        if file.load_arrays and not installed(package)
    ]
    if not_installed:
        ways = [way for way in ways if not {*way.packages} & {*not_installed}]
        arrays = file._replace(load=file.load_arrays, packages=("safetensors",))
        ways = ways or [arrays]
    inputs = [network.preprocess(images) for images in batches]
    results = [_verify(way, path, inputs, expected) for way in ways]
    return Verification(
        max(result.difference for result in results),
        {k: v for result in results for k, v in result.versions.items()},
        results[0].batch_sizes,
        tuple(dict.fromkeys(not_installed)),
    )


def _verify(
    file: ExportedFile,
    path: pathlib.Path,
    inputs: list[np.ndarray],
    expected: list[dict[str, np.ndarray]],
) -> Verification:
    outputs, versions = _run(file, path, inputs)
    arrays = {
        name.removeprefix("arrays/"): x
        for name, x in outputs.items()
        if name.startswith("arrays/")
    }
    if arrays:
        _compare_arrays(arrays, file.arrays or {})
        return Verification(0.0, versions, ())
    difference = max(
        _difference(
            [outputs.get(f"{i}/{name}") for i in range(len(inputs))],
            [y[name] for y in expected],
            name,
        )
        for name in file.outputs or expected[0]
    )
    return Verification(difference, versions, tuple(map(len, inputs)))


def _compare_arrays(
    actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> None:
    """Raises a ValueError unless both hold the same arrays."""
    different = [
        name
        for name in sorted(actual.keys() | expected.keys())
        if name not in actual
        or name not in expected
        or not np.array_equal(actual[name], expected[name])
    ]
    if different:
        raise ValueError(f"it does not hold what was written: {abbreviate(different)}.")


def _difference(
    actual: list[np.ndarray | None], expected: list[np.ndarray], name: str
) -> float:
    """The largest difference over all batches, relative to the largest value.

    Raises:
      ValueError: it is more than TOLERANCE, or shapes differ.
    """
    shapes = [None if x is None else x.shape for x in actual]
    expected_shapes = [x.shape for x in expected]
    if shapes != expected_shapes:
        raise ValueError(f"{name} has shapes {shapes}, expected {expected_shapes}.")
    scale = max(np.abs(x).max() for x in expected)
    pairs = zip(actual, expected, strict=True)
    difference = float(max(np.abs(a - b).max() for a, b in pairs) / scale)
    if not difference <= TOLERANCE:  # true for a NaN, too
        raise ValueError(
            f"{name} differs by {difference:.1e} of its largest value; rounding "
            f"explains {TOLERANCE:.0e}."
        )
    return difference


def _run(
    file: ExportedFile, path: pathlib.Path, inputs: list[np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The results of `file.load` in a separate process, and its packages' versions."""
    with tempfile.TemporaryDirectory() as folder:
        names = "load.py", "inputs.npz", "outputs.npz"
        script, images, results = (f"{folder}/{name}" for name in names)
        pathlib.Path(script).write_text(file.load)
        numbered = {str(i): x for i, x in enumerate(inputs)}
        np.savez(images, allow_pickle=False, **numbered)
        module = [sys.executable, "-m", "simclr_jax.zoo.verification.verify_worker"]
        arguments = [script, str(path), images, results, *file.packages]
        process = subprocess.run(
            [*module, *arguments], capture_output=True, text=True, env=_environment()
        )
        if process.returncode:
            reason = _reason(process.returncode, process.stderr)
            raise ValueError(f"{', '.join(file.packages)} cannot: {reason}")
        with np.load(results) as archive:
            outputs = dict(archive)
    return outputs, json.loads(str(outputs.pop("versions")))


def _reason(code: int, stderr: str) -> str:
    """Why a process failed; a killed one has written no message about it."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"its process was ended by {name}, as when memory runs out"
    return (stderr.strip().splitlines() or ["there was no message"])[-1]


def _environment() -> dict[str, str]:
    """An environment that only uses the CPU: this process may hold the accelerator."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    changes = {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
    return os.environ | changes
