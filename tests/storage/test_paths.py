"""Paths made whole: of this machine, of a bucket, and what is neither."""

import os

import pytest

from simclr_jax.storage.paths import absolute, in_bucket, split


@pytest.mark.parametrize(
    ("path", "whole"),
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
def test_whole_paths(path, whole):
    assert absolute(path) == whole
    assert absolute(whole) == whole


def test_relative_paths_and_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert absolute("runs/x") == f"{tmp_path}/runs/x"
    assert absolute("./x/../y/") == f"{tmp_path}/y"
    assert absolute("~/run") == "/home/somebody/run"
    assert absolute("a:b") == f"{tmp_path}/a:b"  # a colon alone is no scheme
    assert os.listdir(tmp_path) == []  # nothing is made, such as a folder "gs:"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gcs://bucket/run", "did you mean gs://bucket/run"),
        ("gs:/bucket/run", "did you mean gs://bucket/run"),
        ("gs:bucket/run", "did you mean gs://bucket/run"),
        ("gs://bucket/run#1", "may not have '#'"),
        ("gs://bucket/run[1]?", r"may not have '\? \[ \]'"),
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
def test_what_is_no_path(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        absolute(path)
    assert len(str(caught.value).splitlines()) == 1


def test_buckets():
    assert in_bucket("gs://bucket/run")
    assert not in_bucket("/gs://bucket/run")
    assert split("gs://bucket/a/b") == ("bucket", "a/b")
    assert split("gs://bucket") == ("bucket", "")
