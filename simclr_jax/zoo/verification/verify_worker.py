"""Runs an export where it will be used: in a process of its own, without jax.

python -m simclr_jax.zoo.verification.verify_worker
    LINES PATH INPUTS.npz OUTPUTS.npz PACKAGE ...

LINES is a file of the Python that the export's card shows. It finds the export at
`path` and defines `network`, images -> {"h": [N, F], ...}; where a format holds
nothing that computes, it defines `arrays` instead. INPUTS are batches of pictures by
number, OUTPUTS what is said of them, {"0/h": ...}, or {"arrays/...": ...}; and the
`versions` of the packages. Unless jax is one of these, as it reads the format, there is
none: TensorFlow would import it, and nobody would know whether the export works alone.
"""

import importlib.metadata
import json
import pathlib
import sys

import numpy as np


class Absent:
    """Knows jax and says that it is not there."""

    def find_spec(self, fullname, path, target=None):
        if fullname in ("jax", "jaxlib", "flax"):
            raise ModuleNotFoundError(f"{fullname} is not to be used here.")


def main(argv: list[str]) -> None:
    """Does as the command line says."""
    lines, path, inputs, outputs, *packages = argv
    if "jax" not in packages:
        sys.meta_path.insert(0, Absent())
    known: dict = {"path": path}
    exec(compile(pathlib.Path(lines).read_text(), lines, "exec"), known)
    if "arrays" in known:
        said = {f"arrays/{name}": x for name, x in known["arrays"].items()}
    else:
        said = ask(known["network"], inputs)
    versions = {name: version(name) for name in packages}
    np.savez(outputs, allow_pickle=False, versions=json.dumps(versions), **said)


def version(package: str) -> str:
    """Of whatever provides it: onnxruntime may be there as onnxruntime-gpu."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        providers = importlib.metadata.packages_distributions()[package]
        return importlib.metadata.version(providers[0])


def ask(network, inputs: str) -> dict[str, np.ndarray]:
    """What it says of every batch."""
    said = {}
    with np.load(inputs) as batches:
        for number, images in batches.items():
            outputs = network(images)
            said |= {f"{number}/{name}": np.asarray(y) for name, y in outputs.items()}
    return said


if __name__ == "__main__":
    main(sys.argv[1:])
