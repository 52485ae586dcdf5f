"""Paths as a user writes them, made whole: on this machine, or in a bucket."""

import os
import posixpath
import re

BUCKET = "gs://"
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):/|(gs|gcs):")
AMBIGUOUS = "#?[]\r\n"  # which Orbax reads as a URL's end or as a pattern, silently


def in_bucket(path) -> bool:
    """Whether a whole path lies in a bucket."""
    return os.fspath(path).startswith(BUCKET)


def has_scheme(path: str) -> bool:
    """Whether a path begins with a scheme, right or wrong, such as gs:// or gs:/."""
    return SCHEME.match(path) is not None


def absolute(path: str) -> str:
    """The path from the root of this machine, or the one of a bucket; no / at the end.

    `~`, a relative path and file:// are resolved. "" stays "": no path was given.

    Raises:
      ValueError: another scheme than gs:// or file://, a bucket without a path, or one
        of `AMBIGUOUS` in it.
    """
    match = SCHEME.match(path)
    if not match:
        return os.path.abspath(os.path.expanduser(path)) if path else ""
    if path.startswith("file:///"):
        return os.path.abspath(path.removeprefix("file://"))
    if not path.startswith(BUCKET):
        scheme = match[1] or match[2]
        raise ValueError(_wrong_scheme(path, scheme, path[match.end() :]))
    if found := sorted(set(path) & set(AMBIGUOUS)):
        raise ValueError(
            f"{path!r}: a path in a bucket may not have {' '.join(found)!r}."
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
    allowed = "A path is one of this machine, or in a bucket: gs://BUCKET/FOLDER."
    if scheme in ("gs", "gcs", "gc", "google"):
        return f"{path}: did you mean {BUCKET}{rest.lstrip('/')}? {allowed}"
    if scheme == "file":
        return f"{path}: did you mean file:///{rest.lstrip('/')}? {allowed}"
    return f"{path}: {scheme}:// is not supported. {allowed}"


def split(path: str) -> tuple[str, str]:
    """The bucket and the object's name, of a whole path in a bucket."""
    bucket, _, name = os.fspath(path).removeprefix(BUCKET).partition("/")
    return bucket, name


def cache_folder() -> str:
    """The user's folder for files of this package that can be made again."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(root, "simclr_jax")
