"""Files that grow on this machine, and their copies in a bucket."""

import pathlib
import threading

from simclr_jax.storage import bucket

EVERY = 60.0  # seconds between two copies
WHOLE = 2**20  # bytes up to which a file is sent again whole: one request, not four


class Mirror:
    """Copies what is new in a folder's files to a bucket, in the background.

    Args:
      folder: on this machine; its files only ever grow.
      to: a whole path in a bucket.
      every: seconds between two copies.
    """

    def __init__(self, folder: pathlib.Path, to: str, every: float = EVERY):
        self._folder, self._to, self._every = folder, to, every
        self._sent: dict[str, int] = {}  # bytes of each file that are in the bucket
        self._lock, self._end = threading.Lock(), threading.Event()
        self._failure: Exception | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def copy(self) -> None:
        """Sends what is new now; returns when it is there.

        Raises:
          BucketDenied, BucketUnavailable.
        """
        with self._lock:
            for file in sorted(self._folder.iterdir()):
                self._send(file)

    def _send(self, file: pathlib.Path) -> None:
        sent, path = self._sent.get(file.name, 0), f"{self._to}/{file.name}"
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
        """Raises what a copy in the background has failed with."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Sends the rest; raises as `copy`."""
        self._end.set()
        self.copy()
