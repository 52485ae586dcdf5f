"""The command `data bench`."""

import pytest

from simclr_jax.cli import common, data_bench


def test_the_report_has_every_stage_of_the_config(capsys):
    argv = ["--config=configs/quickstart.py", "--seconds=0.05", "--step_ms=50"]
    argv.append("--config.data.split=train[:300]")
    data_bench.main([*argv, "--config.data.image_size=24"])  # not that of the pictures
    out = capsys.readouterr().out
    assert "cifar10_mini/train[:300]: 300 pictures" in out
    for stage in ("read", "decode", "crop, colour", "all"):
        assert f"\n{stage} " in out
    assert "for a batch of 256 every 50 ms" in out
    for colour, stage in (("host", "gather, crop, colour"), ("device", "gather, draw")):
        data_bench.main([*argv, f"--config.data.colour={colour}"])
        out = capsys.readouterr().out
        assert f"\n{stage} " in out
        assert "decode" not in out


def test_an_unknown_split_is_a_usage_error():
    argv = ["--config=configs/quickstart.py", "--config.data.split=trian"]
    with pytest.raises(common.UsageError, match="Did you mean 'train'"):
        data_bench.main(argv)
