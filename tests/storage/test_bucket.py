"""Objects by path, with the real clients and an emulated Cloud Storage."""

import pathlib

import pytest

from simclr_jax.storage import bucket
from simclr_jax.storage.access import check_folder
from simclr_jax.storage.errors import BucketDenied, BucketUnavailable, ObjectMissing
from simclr_jax.storage.files import storage_of
from simclr_jax.storage.retry import PATIENCE
from tests.buckets.emulator import Fault

NAMES = ("a", "a b", "50%+x=1&y", "ä/ö", "#?[x]", "x//y")


def stat(path: str) -> bucket.Stat:
    """The object or folder at a path, which must exist."""
    result = bucket.find(path)
    assert result
    return result


@pytest.mark.parametrize("name", NAMES)
def test_operations_on_names_with_special_characters(cloud, name):
    path = f"gs://bucket/{name}"
    bucket.write(path, b"0123456789")
    assert cloud.objects("bucket") == {name: b"0123456789"}
    assert bucket.read(path) == b"0123456789"
    assert bucket.read(path, 2, 3) == b"234"
    assert stat(path).size == 10
    assert [*bucket.under(path)] == [path]
    bucket.copy(path, f"{path}.copy")
    bucket.append(f"{path}.copy", b"ab", 10)
    assert bucket.read(f"{path}.copy") == b"0123456789ab"
    bucket.remove(path)
    assert [*cloud.objects("bucket")] == [f"{name}.copy"]


def test_reading_at_the_end_and_of_empty_or_missing_objects(cloud):
    cloud.put("bucket", "x", b"0123456789")
    assert bucket.read("gs://bucket/x", 8, 10) == b"89"
    assert bucket.read("gs://bucket/x", 10, 5) == b""
    assert bucket.read("gs://bucket/x", 20, 5) == b""
    assert bucket.read("gs://bucket/x", 3, 0) == b""
    cloud.put("bucket", "empty", b"")
    assert bucket.read("gs://bucket/empty") == b""
    with pytest.raises(ObjectMissing, match=r"gs://bucket/none .*404"):
        bucket.read("gs://bucket/none")


def test_folders_exist_while_objects_lie_in_them(cloud):
    for name in ("run/a", "run/b/c", "run2/d", "run.txt", "e/"):
        cloud.put("bucket", name, b"x")
    assert bucket.listing("gs://bucket/run")[0] == ["b"]
    assert [*bucket.listing("gs://bucket/run")[1]] == ["a"]
    assert bucket.listing("gs://bucket/e") == ([], {})
    assert stat("gs://bucket/run").is_folder
    assert stat("gs://bucket/run/b").is_folder
    assert not stat("gs://bucket/run.txt").is_folder
    assert bucket.find("gs://bucket/ru") is None
    assert bucket.is_folder("gs://bucket/e")
    assert not bucket.is_folder("gs://bucket/run/a")
    with pytest.raises(FileNotFoundError, match="no folder gs://bucket/ru"):
        bucket.listing("gs://bucket/ru")
    bucket.remove_folder("gs://bucket/run")
    assert [*cloud.objects("bucket")] == ["e/", "run.txt", "run2/d"]


def test_long_lists_have_pages(cloud):
    cloud.page = 7
    for i in range(50):
        cloud.put("bucket", f"x/{i:02}/y", b"")
        cloud.put("bucket", f"x/{i:02}.txt", b"")
    folders, objects = bucket.listing("gs://bucket/x")
    assert folders == [f"{i:02}" for i in range(50)]
    assert [*objects] == [f"{i:02}.txt" for i in range(50)]
    assert len(bucket.under("gs://bucket/x/")) == 100


def test_the_version_changes_with_the_content(cloud):
    bucket.write("gs://bucket/x", b"1")
    before = stat("gs://bucket/x")
    bucket.write("gs://bucket/x", b"2")
    assert before.version < stat("gs://bucket/x").version


@pytest.mark.usefixtures("broken_connections")
def test_an_append_whose_response_was_lost_is_not_repeated(cloud):
    cloud.put("bucket", "x", b"01")
    cloud.faults = [Fault("POST .*/compose", truncate=0, count=1)]
    bucket.append("gs://bucket/x", b"23", 2)
    assert cloud.objects("bucket") == {"x": b"0123"}
    with pytest.raises(ValueError, match="has 4 bytes, not 2"):
        bucket.append("gs://bucket/x", b"456", 2)


@pytest.mark.usefixtures("broken_connections")
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503},
        {"status": 429},
        {"status": 401},
        {"reset": True},
        {"truncate": 3},
    ],
    ids=str,
)
def test_temporary_faults_do_not_change_results(cloud, fault):
    cloud.put("bucket", "x", b"0123456789" * 1000)
    for _ in range(2):
        cloud.faults = [Fault(**fault, count=4)]
        assert bucket.read(
            "gs://bucket/x", 5, 5000
        ) == b"56789" + b"0123456789" * 499 + (b"01234")
        cloud.faults = [Fault(**fault, count=2)]
        bucket.write("gs://bucket/y", b"new")
        cloud.faults = [Fault(**fault, count=2)]
        assert len(bucket.under("gs://bucket/")) == 2
    assert cloud.objects("bucket")["y"] == b"new"


def test_reads_fall_back_to_google_when_tensorstore_keeps_a_revoked_token(
    cloud, capsys
):
    cloud.put("bucket", "x", b"0123456789")
    cloud.faults = [Fault("tensorstore", status=401)]
    assert bucket.read("gs://bucket/x", 2, 3) == b"234"
    assert capsys.readouterr().err == ""


def test_a_permanent_outage_is_raised_as_unavailable(cloud, monkeypatch):
    monkeypatch.setenv(PATIENCE, "0.5")
    cloud.faults = [Fault(status=503)]
    for call in (
        lambda: bucket.read("gs://bucket/x"),
        lambda: bucket.write("gs://bucket/x", b""),
        lambda: bucket.find("gs://bucket/x"),
    ):
        with pytest.raises(BucketUnavailable) as error:
            call()
        assert error.value.path == "gs://bucket/x"


def test_upload_and_download(cloud, tmp_path):
    (tmp_path / "net" / "in").mkdir(parents=True)
    (tmp_path / "net" / "a").write_bytes(b"1")
    (tmp_path / "net" / "in" / "b").write_bytes(b"2")
    bucket.upload(tmp_path / "net", "gs://bucket/copy of net")
    bucket.upload(tmp_path / "net" / "a", "gs://bucket/a.ckpt.index")
    cloud.put("bucket", "a.ckpt.data", b"3")
    assert cloud.objects("bucket") == {
        "a.ckpt.data": b"3",
        "a.ckpt.index": b"1",
        "copy of net/a": b"1",
        "copy of net/in/b": b"2",
    }
    local = tmp_path / "here"
    assert bucket.download("gs://bucket/copy of net", local) == 2
    assert (local / "copy of net" / "in" / "b").read_bytes() == b"2"
    assert bucket.download("gs://bucket/a.ckpt", local) == 2  # a TensorFlow checkpoint
    assert sorted(p.name for p in local.iterdir()) == [
        *("a.ckpt.data", "a.ckpt.index", "copy of net"),
    ]
    assert bucket.download("gs://bucket/none", local) == 0


def test_local_and_bucket_storages_return_the_same(cloud, tmp_path):
    for root in (f"{tmp_path}/set", "gs://bucket/set"):
        storage = storage_of(root)
        storage.write(f"{root}/cat/1.png", b"12345")
        storage.write(f"{root}/dog.png", b"1")
        assert storage.entries(root) == (["cat"], ["dog.png"])
        assert storage.is_dir(f"{root}/cat")
        assert not storage.is_dir(f"{root}/dog.png")
        assert not storage.is_dir(f"{root}/cow")
        assert storage.read(f"{root}/cat/1.png", 3, 10) == b"45"
        assert storage.read_all(f"{root}/dog.png") == b"1"
        paths = [f"{root}/dog.png", f"{root}/cat/1.png"]
        assert [stat.size for stat in storage.stats(paths)] == [1, 5]
        for missing in (f"{root}/none", f"{root}/none/x"):
            with pytest.raises(FileNotFoundError):
                storage.stats([missing])
        with pytest.raises(FileNotFoundError):
            storage.entries(f"{root}/none")


def test_metadata_of_a_thousand_files_costs_two_requests(cloud):
    for i in range(1024):
        cloud.put("bucket", f"set/x-{i:04}", b"1")
    cloud.clear_requests()
    paths = [f"gs://bucket/set/x-{i:04}" for i in range(1024)]
    assert len(storage_of(paths[0]).stats(paths)) == 1024
    assert len([r for r in cloud.requests if "/o?" in r.path]) == 2


# Access.


def test_accessible_folders_pass(cloud, tmp_path):
    check_folder("gs://bucket/new", write=True)
    check_folder("gs://bucket/new")
    check_folder(str(tmp_path / "new"), write=True)
    check_folder("")
    assert cloud.objects("bucket") == {}


@pytest.mark.parametrize("write", [False, True])
def test_a_missing_bucket_is_denied(cloud, write):
    with pytest.raises(BucketDenied, match=r"gs://misspelt/run .*no such bucket"):
        check_folder("gs://misspelt/run", write=write)
    assert len(cloud.requests) <= 4


@pytest.mark.parametrize("name", ["BUCKET", "b", "my bucket", "x?y"])
def test_an_invalid_name_of_a_bucket_is_refused(cloud, name):
    with pytest.raises(ValueError, match="not a valid name of a bucket"):
        check_folder(f"gs://{name}/run")
    assert cloud.requests == []


@pytest.mark.parametrize("write", [False, True])
def test_an_object_or_file_is_not_a_folder(cloud, tmp_path, write):
    cloud.put("bucket", "run", b"x")
    with pytest.raises(ValueError, match="gs://bucket/run is an object"):
        check_folder("gs://bucket/run", write=write)
    pathlib.Path(tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="/run is a file"):
        check_folder(f"{tmp_path}/run", write=write)


@pytest.mark.parametrize(
    ("permission", "write"),
    [
        ("storage.objects.list", False),
        ("storage.objects.list", True),
        ("storage.buckets.get", True),
        ("storage.objects.get", True),
        ("storage.objects.create", True),
        ("storage.objects.delete", True),
    ],
)
def test_a_missing_permission_is_named(cloud, permission, write):
    cloud.permissions.remove(permission)
    with pytest.raises(BucketDenied, match=f"{permission} is missing") as error:
        check_folder("gs://bucket/run", write=write)
    assert "gcloud auth application-default login" in error.value.reason


def test_reading_needs_no_write_permission(cloud):
    cloud.put("bucket", "set/x", b"1")
    cloud.permissions = {"storage.objects.get", "storage.objects.list"}
    check_folder("gs://bucket/set")
    assert bucket.read("gs://bucket/set/x") == b"1"


def test_downloads_exclude_other_names_with_the_same_prefix(cloud, tmp_path):
    for name in ("src/model/a", "src/model_big/b", "src/model.index", "src/model/../c"):
        cloud.put("bucket", name, b"x")
    assert bucket.download("gs://bucket/src/model", tmp_path) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "model.index"]


def test_an_empty_part_of_a_name_is_not_listed_as_a_folder(cloud):
    cloud.put("bucket", "set//a.jpg", b"x")
    assert bucket.listing("gs://bucket/set") == ([], {})
