"""Evaluates a saved run by the protocols; stores scores in its results.json."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax.batch import Batch
from simclr_jax.data import pipeline, resizing
from simclr_jax.data.sources import Source
from simclr_jax.evaluate import embedding_2d, plots
from simclr_jax.evaluate.features import Features, FrozenEncoder, extract
from simclr_jax.evaluate.linear_augmented import linear_augmented
from simclr_jax.experiment import build, finetuning, schema
from simclr_jax.experiment.config import Changes
from simclr_jax.experiment.workdir import BUILT, open_saved, read_saved
from simclr_jax.state import TrainState
from simclr_jax.storage import files

EVALUATED = (*BUILT, "data")  # sections whose factories an evaluation calls
CROPS = {"transfer": resizing.centre_square}  # of the pictures; else `resizing.centre`
Crop = Callable[[Any, int], Any]  # see `pipeline.eval_batches`
Progress = Callable[[int, int], None]  # (steps done, steps in all)


def features(
    c: ConfigDict,
    run: build.Run,
    state: TrainState,
    source: Source,
    mesh: Mesh,
    on_progress: Callable[[], None] = lambda: None,
    crop: Crop = resizing.centre,
) -> Features:
    """Features of all pictures of a source, from the branch `Method.keep`.

    Args:
      crop: as in `pipeline.eval_batches`.
      on_progress: called once per batch.
    """
    batches = pipeline.eval_batches(
        source,
        size=c.data.image_size,
        batch_size=-(-c.evaluate.batch_size // mesh.size) * mesh.size,
        crop=crop,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return extract(frozen_encoder(run, state), _reported(batches, on_progress), mesh)


def frozen_encoder(run: build.Run, state: TrainState) -> FrozenEncoder:
    """The branch `Method.keep` of a state, for computing features."""
    method = run.method
    return FrozenEncoder(method.network.encode, method.features, *method.kept(state))


def _reported(
    batches: Iterable[Batch], on_progress: Callable[[], None]
) -> Iterator[Batch]:
    for batch in batches:
        on_progress()
        yield batch


def pixels(c: ConfigDict, source: Source) -> np.ndarray:
    """All pictures as the encoder gets them: float32 [N, H * W * 3] in [0, 1]."""
    batches = pipeline.eval_batches(
        source, size=c.data.image_size, batch_size=c.evaluate.batch_size
    )
    rows = [batch.views[0][batch.valid] for batch in batches]
    return np.concatenate(rows).reshape(len(source), -1) / np.float32(255)


class Evaluation:
    """A saved run with the data to evaluate it on; features are computed once.

    Attributes:
      config, run, state, step: of the run, restored from its newest checkpoint.
      train, test: the sources whose features and labels the protocols compare.
      data: name and splits of the data set.
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
        self._workdir, self._mesh = epath.Path(workdir), mesh
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
        self._features: dict[tuple[bool, Crop], list[Features]] = {}

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
    def planar(self) -> bool:
        """Whether the method's last feature has two dimensions: a map to plot."""
        return self.features()[0].values[self.feature_names[-1]].shape[1] == 2

    def check_labelled(self, protocol: str) -> None:
        """Raises ValueError if a split has no labels, or only one class."""
        if not self.labelled:
            raise ValueError(f"{protocol} needs labels, and {self.data} has none.")
        if self.train.classes < 2:
            raise ValueError(f"{protocol} needs classes, and {self.data} has only one.")

    def features(
        self, *, trained: bool = True, crop: Crop = resizing.centre
    ) -> list[Features]:
        """Features of train and test, by the trained or a newly initialised network."""
        if (trained, crop) not in self._features:
            name = f"the {'trained' if trained else 'untrained'} encoder"
            self._report(
                f"computing features of {len(self.train)} + {len(self.test)} pictures "
                f"of {self.data} by {name}"
            )
            state = self.state if trained else self.run.create()
            self._features[trained, crop] = [
                features(self.config, self.run, state, source, self._mesh, crop=crop)
                for source in (self.train, self.test)
            ]
        return self._features[trained, crop]

    def score(
        self,
        protocol: str,
        feature: str,
        *,
        trained: bool = True,
        progress: Progress = lambda done, total: None,
    ) -> dict[str, Any]:
        """Evaluates by a protocol.

        Args:
          protocol: one of `schema.PROTOCOLS`, or `package.module:protocol`.
          feature: one of `feature_names`.
          trained: whether to use the trained network or a newly initialised one;
            linear_augmented always uses the trained one.
          progress: called with the steps done and the total by protocols that train.

        Returns:
          {"accuracy": in [0, 1], "step", "settings", "data"}, and what else the
          protocol returns, such as "count".

        Raises:
          ValueError: as in the protocol, such as settings invalid for the data.
        """
        settings = self.config.evaluate[schema.protocol_key(protocol)].to_dict()
        name = feature if trained else f"the untrained {feature}"
        self._report(f"evaluating {name} by {protocol}{self._votes(settings)}")
        if protocol == "linear_augmented":
            result = self._linear_augmented(feature, progress, settings)
        elif protocol in finetuning.PROTOCOLS:
            state = self.state if trained else self.run.create()
            task = finetuning.task(self.config, self.run, state, self.train, self.test)
            result = schema.PROTOCOLS[protocol](task, self._mesh, progress, **settings)
        else:
            crop = CROPS.get(protocol, resizing.centre)
            train, test = self.features(trained=trained, crop=crop)
            arrays = train.values[feature], train.label
            arrays += test.values[feature], test.label, self.train.classes
            section = {"name": protocol, **settings}
            context = {"mesh": self._mesh, "progress": progress}
            result = schema.call("protocol", section, *arrays, **context)
        return self._described(result, self.step if trained else 0, settings)

    def _votes(self, settings: dict[str, Any]) -> str:
        """A remark on a number of neighbours k that is larger than the set."""
        n = len(self.train)
        if settings.get("k", 0) <= n:
            return ""
        return f" (k={settings['k']} neighbours, but there are {n} pictures: all vote)"

    def _linear_augmented(
        self, feature: str, progress: Progress, settings: dict[str, Any]
    ) -> dict[str, Any]:
        c = self.config
        test = features(c, self.run, self.state, self.test, self._mesh)
        return linear_augmented(
            frozen_encoder(self.run, self.state),
            self.train,
            test,
            feature,
            c.data.image_size,
            self._mesh,
            progress,
            **settings,
        )

    def _described(
        self, result: dict[str, Any], step: int, settings: dict[str, Any]
    ) -> dict[str, Any]:
        return result | {"step": step, "settings": settings, "data": self.data}

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
            yield name, self._described(result, 0, settings)

    def save(self, protocol: str, name: str, result: dict[str, Any]) -> None:
        """Adds a score to results.json by protocol and name; only on process 0."""
        if jax.process_index():
            return
        path = self._workdir / "results.json"
        results = json.loads(path.read_text()) if path.exists() else {}
        results.setdefault(protocol, {})[name] = result
        files.write(str(path), json.dumps(results, indent=2) + "\n")

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
