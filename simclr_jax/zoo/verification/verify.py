"""Whether a file says what the network says, asked of the file's own runtime."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from typing import NamedTuple

import numpy as np

from simclr_jax.zoo.name_map import listed
from simclr_jax.zoo.network import Network, Written, installed

TOLERANCE = 1e-5  # of the largest difference to the largest value
NOISE = (1, 3, 4)  # batches of pictures of noise, beside the three drawn ones
ROOT = pathlib.Path(__file__).parents[3]


class Verdict(NamedTuple):
    """What came of it."""

    difference: float  # the largest, divided by the largest value; 0.0: of arrays
    by: dict[str, str]  # packages that read it: versions
    sizes: tuple[int, ...]  # of the batches; none: only arrays were compared
    absent: tuple[str, ...] = ()  # packages that would have run it


def pictures(side: int) -> np.ndarray:
    """Three pictures that anybody can draw: uint8 [3, side, side, 3]."""
    y, x = np.indices((side, side)) * 256 // side
    ramps = y, x, (x + y) // 2
    checks = (x // 32 + y // 32) % 2 * 255, x // 64 * 85, y // 64 * 85
    rings = [((x - a) ** 2 + (y - 128) ** 2) // 64 % 256 for a in (64, 128, 192)]
    drawn = [np.stack(channels, -1) for channels in (ramps, checks, rings)]
    return np.stack(drawn).astype(np.uint8)


def batches(side: int) -> list[np.ndarray]:
    """What is asked: the three pictures, then noise, uint8 [n, side, side, 3]."""
    draw = np.random.default_rng(0)
    shapes = [(n, side, side, 3) for n in NOISE]
    noise = [draw.integers(0, 256, shape).astype(np.uint8) for shape in shapes]
    return [pictures(side), *noise]


def verify(
    written: Written,
    path: pathlib.Path,
    network: Network,
    asked: list[np.ndarray],
    expected: list[dict[str, np.ndarray]],
) -> Verdict:
    """Loads the file in processes of their own, in every way it knows, and compares.

    Where PyTorch is to run it and is not installed, its arrays are compared instead.

    Args:
      asked: uint8 batches.
      expected: what the Flax network says of each, {"h": [n, F], ...}.

    Raises:
      ValueError: the file cannot be read there, or it says something else.
    """
    ways = [written, *written.also]
    absent = [
        package
        for way in ways
        for package in way.packages
        if written.plain and not installed(package)
    ]
    if absent:
        ways = [way for way in ways if not {*way.packages} & {*absent}]
        plain = written._replace(load=written.plain, packages=("safetensors",))
        ways = ways or [plain]
    prepared = [network.prepared(x) for x in asked]
    verdicts = [_verify(way, path, prepared, expected) for way in ways]
    return Verdict(
        max(verdict.difference for verdict in verdicts),
        {k: v for verdict in verdicts for k, v in verdict.by.items()},
        verdicts[0].sizes,
        tuple(dict.fromkeys(absent)),
    )


def _verify(written: Written, path, asked, expected) -> Verdict:
    said, versions = _run(written, path, asked)
    arrays = {
        key.removeprefix("arrays/"): x
        for key, x in said.items()
        if key.startswith("arrays/")
    }
    if arrays:
        _compare(arrays, written.arrays or {})
        return Verdict(0.0, versions, ())
    worst = max(
        _difference([said.get(f"{i}/{name}") for i in range(len(asked))], wanted, name)
        for name, wanted in _columns(expected, written.says).items()
    )
    return Verdict(worst, versions, tuple(map(len, asked)))


def _compare(said: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Raises a ValueError unless both hold the same."""
    other = [
        name
        for name in sorted(said.keys() | wanted.keys())
        if name not in said
        or name not in wanted
        or not np.array_equal(said[name], wanted[name])
    ]
    if other:
        raise ValueError(f"it does not hold what was written: {listed(other)}.")


def _columns(expected: list[dict], names) -> dict[str, list[np.ndarray]]:
    return {name: [y[name] for y in expected] for name in names or expected[0]}


def _difference(said: list, wanted: list[np.ndarray], name: str) -> float:
    shapes = [None if x is None else x.shape for x in said]
    right = [x.shape for x in wanted]
    if shapes != right:
        raise ValueError(f"{name} has shapes {shapes} there and {right} here.")
    scale = max(np.abs(x).max() for x in wanted)
    pairs = zip(said, wanted, strict=True)
    worst = float(max(np.abs(a - b).max() for a, b in pairs) / scale)
    if not worst <= TOLERANCE:  # nor is a NaN
        raise ValueError(
            f"{name} differs by {worst:.1e} of its largest value; {TOLERANCE:.0e} is "
            "what rounding may do."
        )
    return worst


def _run(written: Written, path, inputs) -> tuple[dict[str, np.ndarray], dict]:
    """What the lines say in their own process, and the versions of their packages."""
    with tempfile.TemporaryDirectory() as folder:
        lines, asked, said = (f"{folder}/{x}" for x in ("load.py", "in.npz", "out.npz"))
        pathlib.Path(lines).write_text(written.load)
        np.savez(asked, **{str(i): x for i, x in enumerate(inputs)})
        module = [sys.executable, "-m", "simclr_jax.zoo.verification.verify_worker"]
        words = [lines, str(path), asked, said, *written.packages]
        done = subprocess.run(
            [*module, *words], capture_output=True, text=True, env=_environment()
        )
        if done.returncode:
            reason = _reason(done.returncode, done.stderr)
            raise ValueError(f"{', '.join(written.packages)} cannot: {reason}")
        with np.load(said) as file:
            outputs = dict(file)
    return outputs, json.loads(str(outputs.pop("versions")))


def _reason(code: int, stderr: str) -> str:
    """Why a process failed; one that was killed could not say so itself."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"its process was ended by {name}, as when there is no memory left"
    return (stderr.strip().splitlines() or ["it said nothing"])[-1]


def _environment() -> dict[str, str]:
    """This one's, on the processor: an accelerator may be taken by this process."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    mine = {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
    return os.environ | mine
