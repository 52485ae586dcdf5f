"""The folders that a run reads and writes."""

from typing import Any

from etils import epath

from simclr_jax.storage.access import check_folder
from simclr_jax.storage.paths import absolute, has_scheme


def check_inputs(c: Any, workdir: str) -> None:
    """Checks that the folders a config reads from can be read.

    Args:
      c: the config.
      workdir: an absolute path; once it has checkpoints, init_from is not read.

    Raises:
      ValueError, BucketDenied, BucketUnavailable: as `check_folder`.
    """
    folders = [c.data.data_dir]
    if has_scheme(c.data.name):
        folders.append(c.data.name)
    if c.init_from and not (epath.Path(workdir) / "checkpoints").exists():
        folders.append(c.init_from)
    for path in folders:
        check_folder(absolute(path))
