"""epath over gs://, as used by Orbax and TFDS: the same results as on a disk."""

import pytest
from etils import epath

from simclr_jax.storage.gcs_path import GcsPath


@pytest.fixture(params=["disk", "bucket"])
def root(request, tmp_path, cloud):
    return epath.Path(tmp_path if request.param == "disk" else "gs://bucket") / "root"


def test_class_and_parts_of_a_path():
    path = epath.Path("gs://bucket/a") / "b"
    assert isinstance(path, GcsPath)
    assert str(path) == path.as_posix() == "gs://bucket/a/b"
    assert (path.name, path.parent, path.suffix) == (
        "b",
        epath.Path("gs://bucket/a"),
        "",
    )
    assert isinstance(epath.Path(path), GcsPath)


def test_folders_behave_as_on_a_disk(root):
    assert not root.exists()
    assert not root.is_dir()
    (root / "in" / "deep").mkdir(parents=True, exist_ok=True)
    (root / "in" / "deep").mkdir(parents=True, exist_ok=True)
    assert root.is_dir()
    assert (root / "in" / "deep").exists()
    assert [path.name for path in root.iterdir()] == ["in"]
    assert list((root / "in" / "deep").iterdir()) == []
    with pytest.raises(FileExistsError):
        (root / "in").mkdir()
    root.rmtree()
    assert not root.exists()
    with pytest.raises(FileNotFoundError):
        root.rmtree()
    root.rmtree(missing_ok=True)


def test_files_behave_as_on_a_disk(root):
    root.mkdir(parents=True)
    file = root / "a.json"
    with pytest.raises(FileNotFoundError):
        file.read_text()
    assert file.write_text("grün\n") == 5
    assert file.read_text() == "grün\n"
    assert file.read_bytes() == "grün\n".encode()
    with file.open("a") as stream:
        stream.write("zwei\n")
    with file.open() as stream:
        assert [*stream] == ["grün\n", "zwei\n"]
    assert file.stat().length == 11
    assert not file.is_dir()
    with (root / "b").open("wb") as stream:
        stream.write(b"1")
    file.copy(root / "c.json")
    (root / "c.json").replace(root / "d.json")
    (root / "d.json").rename(root / "e.json")
    assert sorted(path.name for path in root.iterdir()) == ["a.json", "b", "e.json"]
    assert sorted(path.name for path in root.glob("*.json")) == ["a.json", "e.json"]
    with pytest.raises(FileExistsError):
        file.rename(root / "e.json")
    file.unlink()
    with pytest.raises(FileNotFoundError):
        file.unlink()
    file.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        file.stat()


def test_an_error_while_writing_keeps_the_old_content(cloud):
    file = epath.Path("gs://bucket/a")
    file.write_text("before")
    with pytest.raises(TypeError), file.open("w") as stream:
        stream.writelines(["half", 1])
    assert file.read_text() == "before"


def test_walk_glob_and_rename_folders(root):
    for name in ("a/1", "a/b/2", "c/3"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    walked = {str(top): (sorted(d), sorted(f)) for top, d, f in root.walk()}
    assert walked[str(root)] == (["a", "c"], [])
    assert walked[str(root / "a")] == (["b"], ["1"])
    assert sorted(path.name for path in root.glob("*/b")) == ["b"]
    (root / "a").rename(root / "new")
    assert (root / "new" / "b" / "2").read_text() == "a/b/2"
    assert not (root / "a").exists()
