"""The judging door: what a finished or running work directory has learnt.

python -m simclr_jax.evaluate --workdir DIR [--protocol knn|linear|linear_augmented]
    [--features h|z] [--config.evaluate.KEY=value]

Without --protocol it runs the quick ones, kNN and linear on cached features, on h of
the untrained and of the pretrained encoder and on z, prints the table and draws
embedding.png. Only linear_augmented is to be compared with published numbers.
"""

import json
import os

import jax
from etils import epath
from tqdm import tqdm

from simclr_jax import config, door, run, sharding
from simclr_jax.evaluate import plots
from simclr_jax.evaluate.knn import knn
from simclr_jax.evaluate.linear import linear, linear_augmented
from simclr_jax.train.checkpoint import restore_latest

MAY_SET = ("evaluate.", "data.data_dir", "data.eval_split")


def main(argv: list[str]) -> None:
    """Judges as the command line says; see door.leave for the exit codes."""
    arguments, changes = read(argv)
    with door.checking():
        c = read_config(arguments.workdir, changes)
    door.join_cluster()
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        with door.checking():
            judged = Judged(c, arguments.workdir, mesh)
        if arguments.protocol:
            with door.checking():
                judged.need_labels(arguments.protocol)
            judged.score(arguments.protocol, arguments.features or "h")
        else:
            judged.quick()


def read(argv: list[str]):
    """What a command line says: (arguments, changes of the config)."""
    words = door.Parser(prog="simclr_jax.evaluate", description=__doc__)
    words.add_argument("--workdir", required=True)
    words.add_argument("--protocol", default="", choices=list(config.PROTOCOLS))
    words.add_argument("--features", default="", choices=["h", "z"])
    arguments, changes = words.parse_with_changes(argv)
    if arguments.features and not arguments.protocol:
        known = ", ".join(config.PROTOCOLS)
        words.error(f"--features goes with a --protocol: {known}.")
    arguments.workdir = os.path.expanduser(arguments.workdir)
    return arguments, changes


def read_config(workdir: str, changes):
    """The config of the run, with those changes that do not touch what was trained."""
    saved = run.read_saved(workdir)
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
        self.train = run.open_data(c, c.data.split, workdir)
        self.test = run.open_data(c, c.data.eval_split, workdir)
        sizes = {"images": len(self.train), "classes": self.train.classes}
        self.job = run.assemble(c, mesh, **sizes)
        self.state, self.step = restore_latest(
            self.workdir.absolute() / "checkpoints", run.abstract(self.job)
        )
        self._features = {}

    @property
    def labelled(self) -> bool:
        """Whether both splits have labels."""
        return bool(self.train.classes and self.test.classes)

    def need_labels(self, protocol: str) -> None:
        if not self.labelled:
            raise ValueError(f"{protocol} needs labels, and {self._data()} has none.")

    def _data(self) -> str:
        return f"{self.c.data.name} ({self.c.data.split}, {self.c.data.eval_split})"

    def features(self, trained: bool = True):
        """(train, test) features of the trained or the untrained network."""
        if trained not in self._features:
            state = self.state if trained else self.job.create()
            self._features[trained] = [
                run.features(self.c, self.job, state, source, self.mesh)
                for source in (self.train, self.test)
            ]
        return self._features[trained]

    def score(self, protocol: str, feature: str, *, trained: bool = True) -> float:
        """Accuracy in [0, 1] by a protocol, noted in results.json."""
        chosen = self.c.evaluate[protocol].to_dict()
        with door.checking():  # settings that do not suit the data
            if protocol == "linear_augmented":
                said = self._linear_augmented(feature, chosen)
            else:
                said = self._of_features(protocol, feature, trained, chosen)
        name = feature if trained else f"untrained_{feature}"
        said |= {"step": self.step if trained else 0, "data": self._data()}
        said["settings"] = chosen
        self._note(protocol, name, said)
        return said["accuracy"]

    def _of_features(self, protocol, feature, trained, chosen: dict) -> dict:
        train, test = self.features(trained)
        return {"knn": knn, "linear": linear}[protocol](
            getattr(train, feature),
            train.label,
            getattr(test, feature),
            test.label,
            self.train.classes,
            self.mesh,
            **chosen,
        )

    def _linear_augmented(self, feature: str, chosen: dict) -> dict:
        test = run.features(self.c, self.job, self.state, self.test, self.mesh)
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

    def _note(self, protocol: str, name: str, said: dict) -> None:
        if jax.process_index():
            return
        print(f"{protocol:17} {name:12} {100 * said['accuracy']:5.1f} %", flush=True)
        path = self.workdir / "results.json"
        results = json.loads(path.read_text()) if path.exists() else {}
        results.setdefault(protocol, {})[name] = said
        written = path.with_suffix(".json.new")  # nobody reads half a file
        written.write_text(json.dumps(results, indent=2) + "\n")
        written.replace(path)

    def quick(self) -> None:
        """The table and the pictures."""
        self.features()
        if self.labelled:
            self._table()
        elif jax.process_index() == 0:
            print(f"{self._data()} has no labels: no accuracies.")
        if jax.process_index() == 0:
            self._draw()

    def _table(self) -> None:
        rows = [
            (f"h, untrained {self.c.encoder.name}", "h", False),
            (f"h, after {self.step} steps", "h", True),
            ("z, its projection", "z", True),
        ]
        table = [
            (title, *(self.score(p, f, trained=t) for p in ("knn", "linear")))
            for title, f, t in rows
        ]
        if jax.process_index() == 0:
            print(f"\n{'accuracy in % (quick)':30} {'kNN':>6} {'linear':>7}")
            for title, near, line in table:
                print(f"{title:30} {100 * near:6.1f} {100 * line:7.1f}")

    def _draw(self) -> None:
        """Writes the pictures that there is enough for, and says what lies where."""
        _, test = self.features()
        names = self.test.class_names
        if len(test.h) >= plots.FEWEST:
            plots.embedding(test.h, test.label, names, self.workdir / "embedding.png")
        metrics = self.workdir / "metrics.jsonl"
        if metrics.exists():  # a run that was stopped early may have none yet
            plots.curves(metrics, self.workdir / "curves.png")
        made = ("embedding.png", "curves.png", "results.json")
        there = [name for name in made if (self.workdir / name).exists()]
        print(f"\n{self.workdir}: {', '.join(there)}")


if __name__ == "__main__":
    door.leave(main)
