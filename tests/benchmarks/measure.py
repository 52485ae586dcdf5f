"""What the benchmarks share: the machine in words, the environment, ratios by round."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import statistics
from collections.abc import Mapping, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]


def machine(*packages: str) -> str:
    """Date, processor with its widest vectors, load, and versions of packages."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", text)
    vectors = {"avx512f": "AVX-512", "avx2": "AVX2"}
    widest = next((title for flag, title in vectors.items() if flag in text), "no AVX2")
    versions = [f"{x} {importlib.metadata.version(x)}" for x in packages]
    parts = [
        str(datetime.datetime.now(datetime.UTC).date()),
        f"{name[1] if name else platform.machine()} with {widest}",
        f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}",
        f"Python {platform.python_version()}",
    ]
    return ", ".join(parts + versions)


def environment(threads: int = 0) -> dict[str, str]:
    """That of `make quickstart`; with `threads`, also what suits PyTorch.

    Without OMP_WAIT_POLICY, PyTorch's idle threads spin, which slows all others.
    """
    makefile = (ROOT / "Makefile").read_text()
    name, value = re.findall(r"(GLIBC_TUNABLES) := (\S+)", makefile)[0]
    added = {name: value, "TF_CPP_MIN_LOG_LEVEL": "2"}
    if threads:
        added |= {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(threads)}
    return os.environ | added


def median_ratio(
    rounds: Sequence[Mapping[str, float]], name: str, reference: str
) -> float:
    """The median over the rounds of one side's value divided by another's."""
    return statistics.median(x[name] / x[reference] for x in rounds)
