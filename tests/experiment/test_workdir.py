"""What a work directory keeps of a run."""

import pytest

from simclr_jax.experiment import config
from tests.tools import begin_in


def test_the_config_may_change_until_a_step_is_logged(tmp_path):
    """A wrong config does not make the directory unusable for the right one."""
    c = config.load("configs/quickstart.py")
    begin_in(tmp_path, c)
    c.optim.lr = 0.1
    begin_in(tmp_path, c)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    begin_in(tmp_path, c)
    c.optim.lr = 0.2
    with pytest.raises(ValueError, match=r"optim\.lr: was 0\.1, now 0\.2"):
        begin_in(tmp_path, c)
