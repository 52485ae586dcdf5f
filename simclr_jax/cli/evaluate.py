"""The judging door: what a finished or running work directory has learnt.

python -m simclr_jax evaluate --workdir DIR
    [--protocol knn|linear|linear_augmented|map2d] [--features h|z]
    [--config.evaluate.KEY=value]

Without --protocol it runs the quick ones, kNN and linear on cached features, on h of
the untrained and of the pretrained encoder and on z, prints the table and draws
embedding.png. Where z is a map of two dimensions, that is what it draws, and map2d
compares it with t-SNE and PCA of the pixels of the same pictures. Only linear_augmented
and, for maps, map2d are to be compared with published numbers.
"""

import json

import jax
import numpy as np
from etils import epath
from tqdm import tqdm

from simclr_jax import sharding
from simclr_jax.cli import common, runtime
from simclr_jax.evaluate import embedding_2d, plots
from simclr_jax.evaluate.knn import knn
from simclr_jax.evaluate.linear import linear, linear_augmented
from simclr_jax.experiment import build, config
from simclr_jax.experiment.workdir import check_inputs
from simclr_jax.storage import files
from simclr_jax.storage.access import check_folder
from simclr_jax.storage.paths import absolute
from simclr_jax.train.checkpoint import restore_latest

EXAMPLE = "python -m simclr_jax evaluate --workdir runs/quickstart --protocol knn"

MAY_SET = (
    *("evaluate.", "data.name", "data.data_dir", "data.eval_split"),
    "data.bank_split",
)


def main(argv: list[str]) -> None:
    """Judges as the command line says; see common.run_and_exit for the exit codes."""
    arguments, changes = read(argv)
    with common.usage_errors():
        check_folder(arguments.workdir, write=True)
        c = read_config(arguments.workdir, changes)
        check_inputs(c, arguments.workdir)
    runtime.join_cluster()
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        with common.usage_errors():
            judged = Judged(c, arguments.workdir, mesh)
        if arguments.protocol:
            with common.usage_errors():
                judged.need_labels(arguments.protocol)
            judged.warn()
            usual = "z" if arguments.protocol == "map2d" else "h"
            judged.score(arguments.protocol, arguments.features or usual)
        else:
            judged.quick()


def read(argv: list[str]):
    """What a command line says: (arguments, changes of the config)."""
    words = common.Parser(
        prog="simclr_jax evaluate", description=__doc__, example=EXAMPLE
    )
    words.add_argument("--workdir", required=True)
    words.add_argument("--protocol", default="", choices=list(config.PROTOCOLS))
    words.add_argument("--features", default="", choices=["h", "z"])
    arguments, changes = words.parse_with_changes(argv)
    if arguments.features and not arguments.protocol:
        known = ", ".join(config.PROTOCOLS)
        words.error(f"--features goes with a --protocol: {known}.")
    with common.usage_errors():
        arguments.workdir = absolute(arguments.workdir)
    return arguments, changes


def read_config(workdir: str, changes):
    """The config of the run, with those changes that do not touch what was trained."""
    saved = build.read_saved(workdir)
    for key, _ in changes:
        if not key.startswith(MAY_SET):
            raise ValueError(
                f"--config.{key} belongs to the training; here one may set "
                f"{', '.join(MAY_SET)}."
            )
    c = config.restored(saved)
    config.override(c, changes)
    config.check(c)
    return c


class Judged:
    """A run under judgement: its parts, its newest state, features as needed."""

    def __init__(self, c, workdir: str, mesh):
        self.c, self.workdir, self.mesh = c, epath.Path(workdir), mesh
        self.splits = c.data.bank_split or c.data.split, c.data.eval_split
        self.train, self.test = (
            build.open_data(c, split, workdir) for split in self.splits
        )
        self.job = build.assemble(c, mesh, **build.sizes(workdir))
        self.state, self.step = restore_latest(
            self.workdir / "checkpoints", build.abstract(self.job)
        )
        self._features = {}

    @property
    def imported(self) -> bool:
        """Whether it was trained elsewhere."""
        return (self.workdir / "import.json").exists()

    @property
    def labelled(self) -> bool:
        """Whether both splits have labels."""
        return bool(self.train.classes and self.test.classes)

    def need_labels(self, protocol: str) -> None:
        if not self.labelled:
            raise ValueError(f"{protocol} needs labels, and {self._data()} has none.")

    def _data(self) -> str:
        return f"{self.c.data.name} ({', '.join(self.splits)})"

    def features(self, trained: bool = True):
        """(train, test) features of the trained or the untrained network."""
        if trained not in self._features:
            state = self.state if trained else self.job.create()
            self._features[trained] = [
                build.features(self.c, self.job, state, source, self.mesh)
                for source in (self.train, self.test)
            ]
        return self._features[trained]

    def score(self, protocol: str, feature: str, *, trained: bool = True) -> float:
        """Accuracy in [0, 1] by a protocol, noted in results.json."""
        chosen = self.c.evaluate[protocol].to_dict()
        with common.usage_errors(started=True):  # settings that do not suit the data
            if protocol == "linear_augmented":
                said = self._linear_augmented(feature, chosen)
            else:
                said = self._of_features(protocol, feature, trained, chosen)
        name = feature if trained else f"untrained_{feature}"
        said |= {"step": self.step if trained else 0, "settings": chosen}
        return self._note(protocol, name, said)

    def _of_features(self, protocol, feature, trained, chosen: dict) -> dict:
        train, test = self.features(trained)
        bank = getattr(train, feature), train.label
        queries = getattr(test, feature), test.label
        arrays = *bank, *queries, self.train.classes
        if protocol == "map2d":
            return embedding_2d.map2d(*arrays, **chosen)
        return {"knn": knn, "linear": linear}[protocol](*arrays, self.mesh, **chosen)

    def _linear_augmented(self, feature: str, chosen: dict) -> dict:
        test = build.features(self.c, self.job, self.state, self.test, self.mesh)
        params, stats = self.job.method.kept(self.state)
        with tqdm(desc="linear_augmented", unit="step", disable=None) as bar:

            def progress(done, total):
                bar.total = total
                bar.update(done - bar.n)

            return linear_augmented(
                self.job.method.network.encode,
                params,
                stats,
                self.train,
                test,
                feature,
                self.c.data.image_size,
                self.mesh,
                progress,
                **chosen,
            )

    def _note(self, protocol: str, name: str, said: dict) -> float:
        """Writes a score to results.json and on the terminal; returns it."""
        said["data"] = self._data()
        if jax.process_index():
            return said["accuracy"]
        print(f"{protocol:17} {name:13} {100 * said['accuracy']:5.1f} %", flush=True)
        path = self.workdir / "results.json"
        results = json.loads(path.read_text()) if path.exists() else {}
        results.setdefault(protocol, {})[name] = said
        files.write(str(path), json.dumps(results, indent=2) + "\n")
        return said["accuracy"]

    def quick(self) -> None:
        """The table and the pictures."""
        self.warn()
        self.features()
        if self.labelled:
            self._table()
        elif jax.process_index() == 0:
            print(f"{self._data()} has no labels: no accuracies.")
        if jax.process_index() == 0:
            self._draw()

    def warn(self) -> None:
        """Says what of an imported network was not in its file."""
        if jax.process_index() or not self.imported:
            return
        fresh = build.read_saved(self.workdir, "import.json")["fresh"]
        if fresh:
            print(f"not in the imported file, so untrained: {', '.join(fresh)}")

    def _table(self) -> None:
        rows = [
            (f"h, untrained {self.c.encoder.name}", "h", False),
            (
                "h, imported" if self.imported else f"h, after {self.step} steps",
                "h",
                True,
            ),
            ("z, its projection", "z", True),
        ]
        table = [
            (title, {p: self.score(p, f, trained=t) for p in ("knn", "linear")})
            for title, f, t in rows
        ]
        if self.planar:
            table[-1][1]["map2d"] = self.score("map2d", "z")
        if jax.process_index():
            return
        if self.planar:
            table += self._pixels()
        widths = {"knn": 6, "linear": 7, "map2d": 6}
        heads = {"knn": "kNN", "linear": "linear", "map2d": "map" * self.planar}
        said = " ".join(f"{heads[p]:>{w}}" for p, w in widths.items())
        print(f"\n{'accuracy in % (quick)':30} {said}".rstrip())
        for title, scores in table:
            words = {p: f"{100 * score:.1f}" for p, score in scores.items()}
            said = " ".join(f"{words.get(p, ''):>{w}}" for p, w in widths.items())
            print(f"{title:30} {said}".rstrip())

    @property
    def planar(self) -> bool:
        """Whether z is a map."""
        return self.features()[0].z.shape[1] == 2

    def _pixels(self) -> list:
        """Rows of the table for the classic maps of the pixels of all pictures."""
        count = len(self.train) + len(self.test)
        if count > embedding_2d.MOST:
            print(f"{count} pictures are too many for maps of their pixels.")
            return []
        print(f"drawing maps of the pixels of {count} pictures", flush=True)
        train, test = self.features()
        x = np.concatenate([build.pixels(self.c, s) for s in (self.train, self.test)])
        chosen, rows = self.c.evaluate.map2d.to_dict(), []
        for name, draw in (("PCA", embedding_2d.pca), ("t-SNE", embedding_2d.tsne)):
            bank, queries = np.split(draw(x), [len(self.train)])
            labelled = bank, train.label, queries, test.label
            said = embedding_2d.map2d(*labelled, self.train.classes, **chosen)
            said |= {"step": 0, "settings": chosen}
            score = self._note("map2d", f"pixels, {name}", said)
            rows.append((f"pixels, by {name}", {"map2d": score}))
        return rows

    def _draw(self) -> None:
        """Writes the pictures that there is enough for, and says what lies where."""
        train, test = self.features()
        names, path = self.test.class_names, self.workdir / "embedding.png"
        if self.planar:
            z = np.concatenate([train.z, test.z])
            label = np.concatenate([train.label, test.label])
            label = label if self.labelled else label[:0]
            plots.plane(z, label, names, path, title=f"{len(z)} pictures, z")
        elif len(test.h) >= plots.FEWEST:
            plots.embedding(test.h, test.label, names, path)
        metrics = self.workdir / "metrics.jsonl"
        if metrics.exists():  # a run that was stopped early may have none yet
            plots.curves(metrics, self.workdir / "curves.png")
        made = ("embedding.png", "curves.png", "results.json")
        there = [name for name in made if (self.workdir / name).exists()]
        print(f"\n{self.workdir}: {', '.join(there)}")


if __name__ == "__main__":
    common.run_and_exit(main)
