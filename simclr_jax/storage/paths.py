"""Converts users' paths to absolute ones, which are local or in a bucket."""

import os
import posixpath
import re

BUCKET = "gs://"
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):/|(gs|gcs):")
AMBIGUOUS = "#?[]\r\n"  # Orbax reads them as the end of a URL or as a pattern


def in_bucket(path: str | os.PathLike) -> bool:
    """Whether an absolute path lies in a bucket."""
    return os.fspath(path).startswith(BUCKET)


def has_scheme(path: str) -> bool:
    """Whether a path starts with a scheme, valid or not, such as gs:// or gs:/."""
    return SCHEME.match(path) is not None


def absolute(path: str) -> str:
    """The absolute local path, or the path in a bucket, without / at the end.

    `~`, a relative path and file:// are resolved; "" is returned unchanged.

    Raises:
      ValueError: another scheme than gs:// or file://, a bucket without a path, or a
        path with one of the characters `AMBIGUOUS`.
    """
    match = SCHEME.match(path)
    if not match:
        return os.path.abspath(os.path.expanduser(path)) if path else ""
    if path.startswith("file:///"):
        return os.path.abspath(path.removeprefix("file://"))
    if not path.startswith(BUCKET):
        scheme = match[1] or match[2]
        raise ValueError(_wrong_scheme(path, scheme, path[match.end() :]))
    if characters := sorted(set(path) & set(AMBIGUOUS)):
        raise ValueError(
            f"{path!r}: a path in a bucket may not contain {' '.join(characters)!r}."
        )
    bucket, _, inside = path.removeprefix(BUCKET).partition("/")
    if not bucket:
        raise ValueError(f"{path} names no bucket: gs://BUCKET/FOLDER.")
    inside = posixpath.normpath(inside.strip("/"))
    if inside.partition("/")[0] in (".", ".."):
        raise ValueError(
            f"{path} is a whole bucket; name a folder in it: {BUCKET}{bucket}/FOLDER."
        )
    return f"{BUCKET}{bucket}/{inside}"


def _wrong_scheme(path: str, scheme: str, rest: str) -> str:
    allowed = "A path is local, or in a bucket: gs://BUCKET/FOLDER."
    if scheme in ("gs", "gcs", "gc", "google"):
        return f"{path}: did you mean {BUCKET}{rest.lstrip('/')}? {allowed}"
    if scheme == "file":
        return f"{path}: did you mean file:///{rest.lstrip('/')}? {allowed}"
    return f"{path}: {scheme}:// is not supported. {allowed}"


def split(path: str | os.PathLike) -> tuple[str, str]:
    """The bucket and the object's name of an absolute path in a bucket."""
    bucket, _, name = os.fspath(path).removeprefix(BUCKET).partition("/")
    return bucket, name


def cache_folder() -> str:
    """The user's cache folder of this package, whose files can be recreated."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(root, "simclr_jax")
