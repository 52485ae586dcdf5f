"""The names of formats, and what importing them loads."""

import subprocess
import sys

import pytest

from simclr_jax.experiment import exporting
from simclr_jax.zoo import catalog

HEAVY = {"jax", "flax", "tensorflow", "orbax", "sklearn", "tensorstore", "google"}


@pytest.mark.parametrize("format", catalog.READERS)
def test_a_reader_has_the_name_of_its_format(format):
    assert catalog.reader(format).__name__ == format


@pytest.mark.parametrize("format", catalog.WRITERS)
def test_a_writer_has_the_name_of_its_format(format):
    assert catalog.writer(format).__name__ == f"write_{format}"


def test_formats_of_arrays_only_are_export_formats():
    assert {*catalog.TORCH} < {*catalog.ARRAYS_ONLY} < {*catalog.WRITERS}


def test_every_part_has_its_modules():
    assert exporting.MODULES.keys() == catalog.PARTS.keys()


@pytest.mark.parametrize(
    ("format", "input", "resolved"),
    [
        ("onnx", "", "float"),
        ("onnx", "uint8", "uint8"),
        ("timm", "", "normalised"),
    ],
)
def test_the_default_input_depends_on_the_format(format, input, resolved):
    assert catalog.check_options(format, "encoder", input) == resolved


def test_the_list_loads_no_large_library():
    lines = (
        "import sys; from simclr_jax.cli import zoo; zoo.main(['list']); "
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    process = subprocess.run(
        [sys.executable, "-c", lines], check=True, capture_output=True, text=True
    )
    assert "BYOL ResNet-50" in process.stdout
    assert not HEAVY & {*process.stderr.split()}
