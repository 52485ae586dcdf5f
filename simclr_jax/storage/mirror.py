"""Copies of growing local files to a bucket."""

import pathlib
import threading

from simclr_jax.storage import bucket

EVERY = 60.0  # seconds between two copies
WHOLE = 2**20  # bytes; smaller files are sent whole: one request instead of four


class Mirror:
    """Copies new content of the files in a folder to a bucket, in the background.

    Args:
      folder: a local folder; its files may only be appended to.
      target: an absolute path in a bucket.
      every: seconds between two copies.
    """

    def __init__(self, folder: pathlib.Path, target: str, every: float = EVERY):
        self._folder, self._target, self._every = folder, target, every
        self._sent: dict[str, int] = {}  # bytes of each file that are in the bucket
        self._lock, self._end = threading.Lock(), threading.Event()
        self._failure: Exception | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def copy(self) -> None:
        """Sends new content; returns when it has been written.

        Raises:
          BucketDenied, BucketUnavailable.
        """
        with self._lock:
            for file in sorted(self._folder.iterdir()):
                self._send(file)

    def _send(self, file: pathlib.Path) -> None:
        sent, path = self._sent.get(file.name, 0), f"{self._target}/{file.name}"
        with file.open("rb") as stream:
            stream.seek(sent)
            new = stream.read()
        if not new:
            return
        if sent >= WHOLE:
            bucket.append(path, new, sent)
        else:
            bucket.write(path, file.read_bytes()[: sent + len(new)])
        self._sent[file.name] = sent + len(new)

    def _run(self) -> None:
        while not self._end.wait(self._every):
            try:
                self.copy()
            except Exception as failure:
                self._failure = failure
                return

    def check(self) -> None:
        """Raises the error of a failed copy in the background, if any."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stops the background copies and sends the rest; raises as in `copy`."""
        self._end.set()
        self.copy()
