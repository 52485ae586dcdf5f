"""Absolute paths: local, in a bucket, and invalid ones."""

import os

import pytest

from simclr_jax.storage.paths import absolute, in_bucket, split


@pytest.mark.parametrize(
    ("path", "result"),
    [
        ("gs://bucket/run", "gs://bucket/run"),
        ("gs://bucket/run/", "gs://bucket/run"),
        ("gs://bucket//a//b/", "gs://bucket/a/b"),
        ("gs://my.bucket-1_x/a/../b", "gs://my.bucket-1_x/b"),
        ("gs://bucket/with space/50%+x=1", "gs://bucket/with space/50%+x=1"),
        ("file:///tmp/run/", "/tmp/run"),
        ("/tmp/run/", "/tmp/run"),
        ("/", "/"),
        ("", ""),
    ],
)
def test_absolute_paths(path, result):
    assert absolute(path) == result
    assert absolute(result) == result


def test_relative_paths_and_the_home_folder_are_resolved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert absolute("runs/x") == f"{tmp_path}/runs/x"
    assert absolute("./x/../y/") == f"{tmp_path}/y"
    assert absolute("~/run") == "/home/somebody/run"
    assert absolute("a:b") == f"{tmp_path}/a:b"  # a colon alone is not a scheme
    assert os.listdir(tmp_path) == []  # creates no folder


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gcs://bucket/run", "did you mean gs://bucket/run"),
        ("gs:/bucket/run", "did you mean gs://bucket/run"),
        ("gs:bucket/run", "did you mean gs://bucket/run"),
        ("gs://bucket/run#1", "may not contain '#'"),
        ("gs://bucket/run[1]?", r"may not contain '\? \[ \]'"),
        ("GS://bucket/run", "GS:// is not supported.*gs://BUCKET/FOLDER"),
        ("s3://bucket/run", "s3:// is not supported.*gs://BUCKET/FOLDER"),
        ("https://storage.googleapis.com/b/run", "https:// is not supported"),
        ("file://run", "did you mean file:///run"),
        ("gs://bucket", "gs://bucket is a whole bucket.*gs://bucket/FOLDER"),
        ("gs://bucket/", "is a whole bucket"),
        ("gs://bucket/a/..", "is a whole bucket"),
        ("gs:///run", "names no bucket"),
    ],
)
def test_invalid_paths_are_refused(path, message):
    with pytest.raises(ValueError, match=message) as error:
        absolute(path)
    assert len(str(error.value).splitlines()) == 1


def test_bucket_and_name_of_a_path():
    assert in_bucket("gs://bucket/run")
    assert not in_bucket("/gs://bucket/run")
    assert split("gs://bucket/a/b") == ("bucket", "a/b")
    assert split("gs://bucket") == ("bucket", "")
