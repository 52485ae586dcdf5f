"""Evaluates a saved run by the protocols; stores scores in its results.json."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from simclr_jax.evaluate import embedding_2d, plots, scores
from simclr_jax.evaluate.features import Features, FrozenEncoder
from simclr_jax.evaluate.knn import votes
from simclr_jax.experiment import build, protocols, schema, score_fingerprint
from simclr_jax.experiment.config import Changes
from simclr_jax.experiment.extraction import extracted, frozen_encoder, pixels
from simclr_jax.experiment.workdir import BUILT, open_saved, read_saved, save_score
from simclr_jax.methods.layers import layer_names
from simclr_jax.state import TrainState
from simclr_jax.storage import files

EVALUATED = (*BUILT, "data")  # sections whose factories an evaluation calls


class Evaluation:
    """A saved run with the data to evaluate it on; features are computed once.

    Attributes:
      config, run, state, step: of the run, restored from its newest checkpoint.
      train, test: the sources whose features and labels the protocols compare.
      data: name and splits of the data set.
      mesh: of the devices.
    """

    def __init__(
        self,
        workdir: str,
        mesh: Mesh,
        changes: Changes = (),
        protocol: str = "",
        report: Callable[[str], None] = lambda line: None,
    ):
        """
        Args:
          changes: of the config's data or `evaluate` settings.
          protocol: as in `saved_config`.
          report: called with a line before each computation that may take long.

        Raises:
          ValueError: as in `open_saved` and `build.open_data`.
          CheckpointError: the checkpoint cannot be read.
        """
        self._workdir, self.mesh = epath.Path(workdir), mesh
        self._report = report
        self.config, self.run, self.state, self.step = open_saved(
            workdir, mesh, changes, sections=EVALUATED, protocol=protocol
        )
        data = self.config.data
        splits = data.bank_split or data.split, data.eval_split
        self.train, self.test = (
            build.open_data(self.config, split, workdir) for split in splits
        )
        self.data = f"{data.name} ({', '.join(splits)})"
        self._features: dict[tuple[bool, tuple[str, ...]], list[Features]] = {}
        self._states = {True: self.state}  # by whether it is the trained one
        self._weights: dict[bool, str] = {}

    @property
    def imported(self) -> bool:
        """Whether the weights come from a foreign checkpoint."""
        return (self._workdir / "import.json").exists()

    @property
    def newly_initialised(self) -> list[str]:
        """The layers that an imported checkpoint lacked."""
        if not self.imported:
            return []
        return read_saved(self._workdir, "import.json")["fresh"]

    @property
    def labelled(self) -> bool:
        """Whether both splits have labels."""
        return bool(self.train.classes and self.test.classes)

    @property
    def chance(self) -> float:
        """The share of the most frequent class of the test pictures."""
        counts = np.bincount(self.features()[1].label)
        return counts.max() / counts.sum()

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features that the method has, "h" first."""
        return build.feature_names(self.config, self.run)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The features that the network has beside those; see `methods/layers.py`."""
        names = layer_names(self.run.method.network)
        return tuple(name for name in names if name not in self.feature_names)

    @property
    def planar(self) -> bool:
        """Whether the method's last feature has two dimensions: a map to plot."""
        return self.features()[0].values[self.feature_names[-1]].shape[1] == 2

    def check_labelled(self, protocol: str) -> None:
        """Raises ValueError if a split has no labels, or there is only one class."""
        if not self.labelled:
            raise ValueError(f"{protocol} needs labels, and {self.data} has none.")
        if self.train.classes != self.test.classes or self.train.classes < 2:
            raise ValueError(
                f"{protocol} needs the same classes, two or more, in both splits; "
                f"{self.data} has {self.train.classes} and {self.test.classes}."
            )

    def encoder(self, feature: str = "", *, trained: bool = True) -> FrozenEncoder:
        """The trained or a newly initialised network, for one feature or the method's.

        Args:
          feature: one of `layer_names`; others, and "", are among the method's.
        """
        names = (feature,) if feature in self.layer_names else ()
        return frozen_encoder(self.run, self.weights(trained), names)

    def weights(self, trained: bool) -> TrainState:
        """The state of the trained or of a newly initialised network."""
        if trained not in self._states:
            self._states[trained] = self.run.create()
        return self._states[trained]

    def score_name(self, protocol: str, feature: str) -> str:
        """The name of a score in results.json, such as "h", or "h, 1%" of finetune."""
        if protocol != "finetune":
            return feature
        labels = self.config.evaluate.finetune.labels
        return f"{feature}, {labels.rpartition('/')[2]}"

    def features(self, feature: str = "", *, trained: bool = True) -> list[Features]:
        """Features of train and test, as `encoder` computes them; they are kept."""
        key = trained, (feature,) if feature in self.layer_names else ()
        if key not in self._features:
            name = f"the {'trained' if trained else 'untrained'} encoder"
            self._report(
                f"computing features of {len(self.train)} + {len(self.test)} pictures "
                f"of {self.data} by {name}"
            )
            encoder = self.encoder(feature, trained=trained)
            self._features[key] = [
                extracted(self.config, encoder, source, self.mesh)
                for source in (self.train, self.test)
            ]
        return self._features[key]

    def test_features(self, encoder: FrozenEncoder) -> Features:
        """Features of the test pictures alone."""
        return extracted(self.config, encoder, self.test, self.mesh)

    def score(
        self,
        protocol: str,
        feature: str,
        *,
        trained: bool = True,
        progress: protocols.Progress = lambda done, total: None,
    ) -> dict[str, Any]:
        """Evaluates by a protocol.

        Args:
          protocol: one of `schema.PROTOCOLS`, or `package.module:protocol`.
          feature: one of `feature_names` or `layer_names`.
          trained: whether to use the trained network or a newly initialised one.
          progress: called by protocols of many steps with the steps done and the total.

        Returns:
          {"accuracy": in [0, 1], "step", "settings", "data", "fingerprint"}, and what
          else the protocol returns, such as "count".

        Raises:
          ValueError: as in the protocol, such as settings invalid for the data.
        """
        settings = self.config.evaluate[schema.protocol_key(protocol)].to_dict()
        name = feature if trained else f"the untrained {feature}"
        self._report(f"evaluating {name} by {protocol}{self._votes(protocol)}")
        result = protocols.run(self, protocol, feature, trained, settings, progress)
        step, weights = self.step if trained else 0, self._fingerprint(trained)
        return self._described(result, protocol, feature, step, weights)

    def _votes(self, protocol: str) -> str:
        """A remark on a number of neighbours k that the set is too small for."""
        if protocol != "knn":
            return ""
        k, n, classes = self.config.evaluate.knn.k, len(self.train), self.train.classes
        used = votes(k, n, classes)
        if used == k:
            return ""
        return f" (k={used}, not {k}: there are {n} pictures of {classes} classes)"

    def _fingerprint(self, trained: bool) -> str:
        if trained not in self._weights:
            _, _, params, stats = self.encoder(trained=trained)
            weights = score_fingerprint.of_weights(params, stats, self.mesh)
            self._weights[trained] = weights
        return self._weights[trained]

    def _described(
        self,
        result: dict[str, Any],
        protocol: str,
        feature: str,
        step: int,
        weights: str,
    ) -> dict[str, Any]:
        return result | {
            "step": step,
            "settings": self.config.evaluate[schema.protocol_key(protocol)].to_dict(),
            "data": self.data,
            "fingerprint": score_fingerprint.of_score(
                protocol,
                feature,
                self.config.data.image_size,
                self.train,
                self.test,
                weights,
            ),
        }

    @property
    def map_limit_exceeded(self) -> bool:
        """Whether there are too many pictures for `pixel_maps`."""
        return len(self.train) + len(self.test) > embedding_2d.MAX_PICTURES

    def pixel_maps(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Scores of the PCA and t-SNE maps of the pixels: (name, as from `score`)."""
        train, test = self.features()
        x = np.concatenate([pixels(self.config, s) for s in (self.train, self.test)])
        settings = self.config.evaluate.map2d.to_dict()
        for name, draw in (("PCA", embedding_2d.pca), ("t-SNE", embedding_2d.tsne)):
            bank, queries = np.split(draw(x), [len(self.train)])
            arrays = bank, train.label, queries, test.label, self.train.classes
            result = embedding_2d.map2d(*arrays, **settings)
            yield name, self._described(result, "map2d", f"pixels, {name}", 0, "")

    def save(self, protocol: str, name: str, result: dict[str, Any]) -> None:
        """Adds a score to results.json by protocol and name; only on process 0.

        Its long parts, `scores.DETAILS`, are written to evaluations/PROTOCOL-NAME.json.
        """
        if jax.process_index():
            return
        short, details = scores.split(result)
        save_score(self._workdir, protocol, name, short)
        if details:
            content = {"class_names": list(self.test.class_names)} | details
            stem = re.sub(r"[^\w-]+", "_", f"{protocol}-{name}")
            path = self._workdir / "evaluations" / f"{stem}.json"
            files.write(str(path), json.dumps(content) + "\n")

    def draw(self) -> list[str]:
        """Plots embedding.png and curves.png, if there is enough data for them.

        Returns:
          the names of these files and of results.json, without those that do not exist.
        """
        train, test = self.features()
        names, path = self.test.class_names, self._workdir / "embedding.png"
        if self.planar:
            name = self.feature_names[-1]
            z = np.concatenate([train.values[name], test.values[name]])
            label = np.concatenate([train.label, test.label])
            label = label if self.labelled else label[:0]
            plots.plane(z, label, names, path, title=f"{len(z)} pictures, {name}")
        elif len(test.index) >= plots.MIN_PICTURES:
            self._report("drawing a map of the features of the test pictures (t-SNE)")
            plots.embedding(test.values["h"], test.label, names, path)
        metrics = self._workdir / "metrics.jsonl"
        if metrics.exists():  # a run that was stopped early may have none yet
            plots.curves(
                metrics,
                self._workdir / "curves.png",
                train=self.config.data.split,
                test=self.config.data.eval_split,
            )
        outputs = ("embedding.png", "curves.png", "results.json")
        return [name for name in outputs if (self._workdir / name).exists()]
