"""JAX's cache of compiled programs, for the commands that compile.

Entries are executables and are trusted: who may write to the folder can run code in
this process. Their key has the program, jaxlib's version, the compiler's flags and the
devices; JAX's process 0 alone writes. JAX's own variables have precedence; nothing is
changed for users of the package from Python.
"""

import contextlib
import os
import pathlib
import re
import stat
import tempfile
import threading
import warnings
from collections.abc import Iterator

import jax

from simclr_jax.storage import bucket
from simclr_jax.storage.paths import cache_folder, in_bucket
from simclr_jax.storage.retry import say

LIMIT = 2**30  # bytes of the user's entries, from which on unused ones are removed
# Seconds of compiling from which on a program is kept. Two of the quickstart's start
# take longer, by far; all others together half a second, as long as to read them.
LEAST_SECONDS = 0.2
EVERY = 5.0  # seconds between two looks for new entries, to copy them to a bucket
OTHERS = stat.S_IWGRP | stat.S_IWOTH  # permissions to write
READ = "a compiled program cannot be read, and is compiled again"
KEPT = "compiled programs are not kept"
WARNING = r"Error (reading|writing) persistent compilation cache entry for '(\w+)': "


@contextlib.contextmanager
def enabled(workdir: str = "") -> Iterator[None]:
    """Keeps the programs that the body compiles, and reads those that were kept.

    Call it after the process has joined its cluster. A cache that cannot be used costs
    one line on stderr and the time to compile.

    Args:
      workdir: absolute path of a run that the body trains. If it is in a bucket, the
        programs are kept beside it, as WORKDIR.compiled, so that another machine that
        resumes the run reads them; otherwise in the user's cache folder.
    """
    values = jax.config.values
    allowed = values["jax_enable_compilation_cache"]
    with contextlib.ExitStack() as stack:
        # A folder is set already if the user has chosen one.
        if allowed and values["jax_compilation_cache_dir"] is None:
            try:
                folder = stack.enter_context(_folder(workdir))
            except OSError as error:
                _note(f"{KEPT}: {error}")
            else:
                stack.enter_context(_used(folder))
        yield


def _note(text: str) -> None:
    if jax.process_index() == 0:
        say(text)


@contextlib.contextmanager
def _folder(workdir: str) -> Iterator[pathlib.Path]:
    if in_bucket(workdir):
        # XLA's caches are not copied, and their folder is in the keys of jax 0.10.
        jax.config.update("jax_persistent_cache_enable_xla_caches", None)
        with (
            tempfile.TemporaryDirectory(prefix="simclr_jax_") as folder,
            _BucketCopy(pathlib.Path(folder), f"{workdir}.compiled") as local,
        ):
            yield local
    else:
        folder = _user_folder()
        _remove_unused(folder)
        yield folder


@contextlib.contextmanager
def _used(folder: pathlib.Path) -> Iterator[None]:
    """Sets the folder; removes entries that JAX warns of, so that it writes them anew.

    JAX itself would warn of them at every start.
    """
    jax.config.update("jax_compilation_cache_dir", str(folder))
    least = "jax_persistent_cache_min_compile_time_secs"
    if least.upper() not in os.environ:
        jax.config.update(least, LEAST_SECONDS)
    noted = set()

    def handle(message, *args, **kwargs):
        match = re.match(WARNING, str(message))
        if match is None:
            show(message, *args, **kwargs)
            return
        for path in folder.glob(f"{match[2]}-*"):
            with contextlib.suppress(OSError):  # a folder that is read-only
                path.unlink()
        if match[1] not in noted:  # the first of them; the others have the same cause
            noted.add(match[1])
            reason = str(message)[match.end() :].partition("\n")[0]
            _note(f"{READ if match[1] == 'reading' else KEPT}: {reason}, in {folder}")

    with warnings.catch_warnings():
        show, warnings.showwarning = warnings.showwarning, handle
        warnings.filterwarnings("always", WARNING)
        try:
            yield
        finally:
            jax.config.update("jax_compilation_cache_dir", None)


# The user's folder.


def _user_folder() -> pathlib.Path:
    """The user's folder, which is created, readable by nobody else, if it is missing.

    Raises:
      OSError: there is no home, or others may write to the folder or its parent.
    """
    folder = pathlib.Path(cache_folder(), "compiled")
    if not folder.is_absolute():
        raise OSError(f"{folder} is not absolute: neither XDG_CACHE_HOME nor HOME is")
    for path in (*reversed(folder.parents), folder):
        path.mkdir(mode=0o700, exist_ok=True)
    for path in (folder.parent, folder):
        status = path.stat()
        if status.st_uid != os.getuid():
            raise OSError(f"{path} belongs to another user")
        if status.st_mode & OTHERS:
            raise OSError(f"other users may write to {path}: chmod go-w {path}")
    return folder


def _remove_unused(folder: pathlib.Path) -> None:
    """Removes entries that were not read for longest, until LIMIT bytes remain."""
    entries = [(path, path.stat()) for path in folder.glob("*-cache")]
    total = sum(status.st_size for _, status in entries)
    for path, status in sorted(entries, key=lambda entry: entry[1].st_atime):
        if total <= LIMIT:
            return
        path.unlink(missing_ok=True)
        total -= status.st_size


# In a bucket.


class _BucketCopy:
    """A local folder with the entries of a run in a bucket; new ones are copied back.

    JAX itself would send several requests for each program, kept or not. Here they are
    one list, and one read for each entry.
    """

    def __init__(self, parent: pathlib.Path, target: str):
        """
        Args:
          parent: a local folder, empty; that of the entries will be in it.
          target: a folder in a bucket, which need not exist.
        """
        self._folder, self._target = parent / target.rpartition("/")[2], target
        self._end, self._lock = threading.Event(), threading.Lock()
        self._sent: dict[str, int] = {}

    def __enter__(self) -> pathlib.Path:
        """Reads the entries; returns their folder."""
        self._folder.mkdir()
        try:
            bucket.download(self._target, self._folder.parent)
        except OSError as error:
            _note(f"{READ}: {error}")
        self._sent = self._times()
        threading.Thread(target=self._run, daemon=True).start()
        return self._folder

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Sends the rest, unless the body or an earlier copy failed."""
        failed = self._end.is_set()
        self._end.set()
        if error is None and not failed:
            self._try()

    def _times(self) -> dict[str, int]:
        """The time of the last change of each entry."""
        paths = self._folder.glob("*-cache")
        return {path.name: path.stat().st_mtime_ns for path in paths}

    def _send(self) -> None:
        with self._lock:
            new = self._times().items() - self._sent.items()
            for name, changed in sorted(new):
                data = (self._folder / name).read_bytes()
                bucket.write(f"{self._target}/{name}", data)
                self._sent[name] = changed

    def _run(self) -> None:
        while not self._end.wait(EVERY):
            self._try()

    def _try(self) -> None:
        try:
            self._send()
        except OSError as error:
            self._end.set()
            _note(f"{KEPT}: {error}")
