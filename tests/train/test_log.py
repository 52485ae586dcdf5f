"""The progress that a run prints."""

import json

from simclr_jax.train.log import Log


def test_accuracies_are_beside_the_loss_and_stay_with_their_step(tmp_path, capsys):
    log = Log(tmp_path, 0, 100)
    metrics = {"loss": 2.5, "images_per_second": 800.0}
    log.write(10, metrics)
    log.write(20, metrics | {"probe_accuracy": 0.25, "knn_accuracy": 0.4})
    log.write(30, metrics | {"probe_accuracy": 0.35})
    log.close()
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("step 10/100  loss 2.5000  800 images/s  ")
    assert "  loss 2.5000  probe 25.0 %  kNN 40.0 %  800 images/s  " in second
    assert "  loss 2.5000  probe 35.0 %  kNN 40.0 % (20)  800 images/s  " in third


def test_warnings_are_printed_and_kept_until_their_step_is_repeated(tmp_path, capsys):
    log = Log(tmp_path, 0, 100)
    log.warn(10, "rate", "Too high.")
    log.warn(20, "collapse", "All equal.")
    log.close()
    assert "warning: step 10: Too high.\n" in capsys.readouterr().err
    Log(tmp_path, 15, 100).close()
    lines = (tmp_path / "warnings.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 10, "name": "rate", "text": "Too high."}
    ]
