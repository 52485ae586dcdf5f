"""Runs an exported file in a separate process, without jax.

python -m simclr_jax.zoo.verification.verify_worker
    SCRIPT PATH INPUTS.npz OUTPUTS.npz PACKAGE ...

SCRIPT is the Python shown on the export's card. It reads the export at `path` and
defines `network`, images -> {"h": [N, F], ...}, or `arrays` for a format without a
forward pass. INPUTS holds batches of images by number. The results are written to
OUTPUTS, {"0/h": ...} or {"arrays/...": ...}, with the `versions` of the packages.
Unless jax is among the packages, importing it is an error, which shows that the export
works without it: TensorFlow imports jax if it can.
"""

import importlib.metadata
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class BlockJax:
    """An import finder that rejects jax."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> None:
        if fullname in ("jax", "jaxlib", "flax"):
            raise ModuleNotFoundError(f"{fullname} must not be imported.")


def main(argv: list[str]) -> None:
    """Runs the script and writes its results, see above."""
    script, path, inputs, outputs, *packages = argv
    if "jax" not in packages:
        sys.meta_path.insert(0, BlockJax())
    variables: dict = {"path": path}
    exec(compile(pathlib.Path(script).read_text(), script, "exec"), variables)
    if "arrays" in variables:
        results = {f"arrays/{name}": x for name, x in variables["arrays"].items()}
    else:
        results = run(variables["network"], inputs)
    versions = {name: version(name) for name in packages}
    np.savez(outputs, allow_pickle=False, versions=json.dumps(versions), **results)


def version(package: str) -> str:
    """The version of the distribution that provides a module.

    It may have another name: onnxruntime may come from onnxruntime-gpu.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        providers = importlib.metadata.packages_distributions()[package]
        return importlib.metadata.version(providers[0])


def run(network: Callable[[np.ndarray], dict], inputs: str) -> dict[str, np.ndarray]:
    """The outputs for every batch of a file, {"NUMBER/NAME": array}."""
    results = {}
    with np.load(inputs) as batches:
        for number, images in batches.items():
            outputs = network(images)
            results |= {
                f"{number}/{name}": np.asarray(y) for name, y in outputs.items()
            }
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
