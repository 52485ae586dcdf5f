"""The progress that a run prints."""

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
