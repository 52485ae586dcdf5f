"""views.png: some pictures of a run and the views of them that the encoder gets."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from etils import epath

from simclr_jax.data import pipeline, tfdata
from simclr_jax.evaluate import plots
from simclr_jax.experiment import build

if TYPE_CHECKING:
    from simclr_jax.experiment.training import Training

COUNT = 8  # pictures


def draw_views(training: "Training") -> None:
    """Writes views.png."""
    c, source = training.config, training.source
    count = min(COUNT, len(source))
    stride = len(source) // count if source.block == 1 else 1  # from several classes
    images = tfdata.read_pictures(source, range(0, count * stride, stride))
    views = pipeline.preview(build.recipe(c), images, c.seed, colour=c.data.colour)
    path = epath.Path(training.workdir) / "views.png"
    plots.gallery(views, path, originals=images)


@contextlib.contextmanager
def in_background(
    tasks: Sequence[Callable[[], None]], on_progress: Callable[[], None]
) -> Iterator[Callable[[], None]]:
    """Runs tasks in another thread while the body runs, and waits for their end.

    Yields:
      on_progress, which raises the error of a task that has failed; so does the end.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        futures = [pool.submit(task) for task in tasks]

        def progress() -> None:
            for future in futures:
                if future.done():
                    future.result()
            on_progress()

        yield progress
        for future in futures:
            future.result()
