"""The manifests: documented fields of the right types, and consistent numbers."""

import math
import pathlib

import pytest
import yaml

from simclr_jax.cli import common, pretrain

FILES = ("launch/gke.yaml", "launch/gke_multislice.yaml")

# Fields in use, as documented by Kubernetes 1.37 (batch/v1 Job and below) and JobSet
# v1alpha2; a tuple lists the allowed values.
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


def check(value, schema, path="."):
    """Fails where a value does not match its schema; fields named `x?` are optional."""
    if isinstance(schema, dict):
        assert isinstance(value, dict), path
        assert set(value) <= {key.rstrip("?") for key in schema}, path
        for key, inner in schema.items():
            if not key.endswith("?") or key.rstrip("?") in value:
                assert key.rstrip("?") in value, f"{path}: {key} is missing"
                check(value[key.rstrip("?")], inner, f"{path}/{key}")
    elif isinstance(schema, list):
        assert isinstance(value, list), path
        assert value, path
        for item in value:
            check(item, schema[0], path)
    elif isinstance(schema, tuple):
        assert value in schema, path
    else:
        assert type(value) is schema, path


def load(file):
    return yaml.safe_load(pathlib.Path(file).read_text())


def parts(manifest):
    (slices,) = manifest["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    pod = job["template"]["spec"]
    return slices, job, pod, pod["containers"][0]


@pytest.mark.parametrize("file", FILES)
def test_manifests_match_the_schema(file):
    check(load(file), JOBSET)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("backoffLimit", "backofLimit"),
        ("completions: 16", 'completions: "16"'),
        ("Never", "Always"),
        ("          backoffLimit: 0 # a lost host restarts all of them\n", ""),
    ],
)
def test_wrong_manifests_fail_the_check(right, wrong):
    text = pathlib.Path(FILES[0]).read_text()
    assert text.count(right) == 1
    with pytest.raises(AssertionError):
        check(yaml.safe_load(text.replace(right, wrong)), JOBSET)


@pytest.mark.parametrize("file", FILES)
def test_the_number_of_hosts_matches_the_topology(file):
    _, job, pod, container = parts(load(file))
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(map(int, topology.split("x")))
    chips_per_host = container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] * chips_per_host == chips
    assert job["completions"] == job["parallelism"]
    assert job["completionMode"] == "Indexed"  # gives every host its number


@pytest.mark.parametrize("file", FILES)
def test_failures_end_the_job_and_other_exits_restart_it(file):
    manifest = load(file)
    _, job, pod, container = parts(manifest)
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    codes = rule["onExitCodes"]
    assert codes["containerName"] == container["name"]
    assert (codes["operator"], codes["values"]) == ("In", [common.FAILED, common.USAGE])
    policy = manifest["spec"]["failurePolicy"]
    (end,) = policy["rules"]  # without a matching rule JobSet restarts all
    assert end["action"] == "FailJobSet"
    assert end["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert policy["maxRestarts"] > 0


@pytest.mark.parametrize("file", FILES)
def test_pretrain_parses_the_arguments(file):
    *_, container = parts(load(file))
    command, *arguments = container["args"]
    assert command == "pretrain"
    c, workdir = pretrain.read(arguments)
    assert c.data.data_dir.startswith("gs://BUCKET/")
    assert workdir.startswith("gs://BUCKET/")


def test_manifests_differ_in_slices_and_machines_only():
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
