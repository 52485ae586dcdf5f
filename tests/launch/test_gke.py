"""The manifests: known fields of the right types, and sums that come out."""

import math
import pathlib

import pytest
import yaml

from simclr_jax.cli import common, pretrain

FILES = ("launch/gke.yaml", "launch/gke_multislice.yaml")

# The fields that are used, as Kubernetes 1.37 (batch/v1 Job and below) and JobSet
# v1alpha2 document them; a tuple names what may stand there.
CONTAINER = {
    "name": str,
    "image": str,
    "args": [str],
    "ports": [{"containerPort": int}],
    "resources": {"limits": {"google.com/tpu": int}},
}
POD = {
    "restartPolicy": ("Never", "OnFailure"),  # of a Job
    "terminationGracePeriodSeconds": int,
    "nodeSelector": {
        "cloud.google.com/gke-tpu-accelerator": str,
        "cloud.google.com/gke-tpu-topology": str,
        "cloud.google.com/gke-spot?": ("true",),
    },
    "containers": [CONTAINER],
}
EXIT_CODES = {"containerName": str, "operator": ("In", "NotIn"), "values": [int]}
RULE = {
    "action": ("FailJob", "FailIndex", "Ignore", "Count"),
    "onExitCodes": EXIT_CODES,
}
JOB = {
    "parallelism": int,
    "completions": int,
    "completionMode": ("Indexed", "NonIndexed"),
    "backoffLimit": int,
    "podFailurePolicy": {"rules": [RULE]},
    "template": {"spec": POD},
}
ACTIONS = ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts")
FAILURES = {"name": str, "action": ACTIONS, "onJobFailureReasons": [str]}
FAILURE_POLICY = {
    "restartStrategy": ("Recreate", "BlockingRecreate", "InPlaceRestart"),
    "maxRestarts": int,
    "rules": [FAILURES],
}
SLICES = {"name": str, "replicas": int, "template": {"spec": JOB}}
JOBSET = {
    "apiVersion": ("jobset.x-k8s.io/v1alpha2",),
    "kind": ("JobSet",),
    "metadata": {
        "name": str,
        "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": str},
    },
    "spec": {"failurePolicy": FAILURE_POLICY, "replicatedJobs": [SLICES]},
}


def check(value, kind, where="."):
    """Fails where a value is not of its kind; fields named `x?` may be missing."""
    if isinstance(kind, dict):
        assert isinstance(value, dict), where
        assert set(value) <= {key.rstrip("?") for key in kind}, where
        for key, inner in kind.items():
            if not key.endswith("?") or key.rstrip("?") in value:
                assert key.rstrip("?") in value, f"{where}: {key} is missing"
                check(value[key.rstrip("?")], inner, f"{where}/{key}")
    elif isinstance(kind, list):
        assert isinstance(value, list), where
        assert value, where
        for each in value:
            check(each, kind[0], where)
    elif isinstance(kind, tuple):
        assert value in kind, where
    else:
        assert type(value) is kind, where


def load(file):
    return yaml.safe_load(pathlib.Path(file).read_text())


def parts(manifest):
    (slices,) = manifest["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    pod = job["template"]["spec"]
    return slices, job, pod, pod["containers"][0]


@pytest.mark.parametrize("file", FILES)
def test_every_field_is_known(file):
    check(load(file), JOBSET)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("backoffLimit", "backofLimit"),
        ("completions: 16", 'completions: "16"'),
        ("Never", "Always"),
        ("          backoffLimit: 0 # one host less and all begin again\n", ""),
    ],
)
def test_the_check_can_fail(right, wrong):
    text = pathlib.Path(FILES[0]).read_text()
    assert text.count(right) == 1
    with pytest.raises(AssertionError):
        check(yaml.safe_load(text.replace(right, wrong)), JOBSET)


@pytest.mark.parametrize("file", FILES)
def test_hosts_are_as_many_as_the_topology_has(file):
    _, job, pod, container = parts(load(file))
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(map(int, topology.split("x")))
    on_a_host = container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] * on_a_host == chips
    assert job["completions"] == job["parallelism"]
    assert job["completionMode"] == "Indexed"  # gives every host its number


@pytest.mark.parametrize("file", FILES)
def test_what_failed_ends_and_the_rest_begins_again(file):
    manifest = load(file)
    _, job, pod, container = parts(manifest)
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    codes = rule["onExitCodes"]
    assert codes["containerName"] == container["name"]
    assert (codes["operator"], codes["values"]) == ("In", [common.FAILED, common.USAGE])
    policy = manifest["spec"]["failurePolicy"]
    (end,) = policy["rules"]  # where none fits, JobSet restarts all
    assert end["action"] == "FailJobSet"
    assert end["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert policy["maxRestarts"] > 0


@pytest.mark.parametrize("file", FILES)
def test_the_door_understands_its_words(file):
    *_, container = parts(load(file))
    room, *words = container["args"]
    assert room == "pretrain"
    c, workdir = pretrain.read(words)
    assert c.data.data_dir.startswith("gs://BUCKET/")
    assert workdir.startswith("gs://BUCKET/")


def test_the_two_differ_in_slices_and_machines_only():
    one, two = map(load, FILES)
    (slices, job, pod, _), (slices2, job2, pod2, _) = parts(one), parts(two)
    assert (slices["replicas"], slices2["replicas"]) == (1, 2)
    assert pod2["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    one["metadata"]["name"] = two["metadata"]["name"]
    slices["replicas"] = slices2["replicas"]
    for key in ("parallelism", "completions"):
        job[key] = job2[key]
    pod["nodeSelector"] = pod2["nodeSelector"]
    assert one == two
