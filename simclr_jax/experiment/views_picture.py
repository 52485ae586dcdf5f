"""views.png: some pictures of a run and the views of them that the encoder gets."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from etils import epath

from simclr_jax.data import pipeline, tfdata
from simclr_jax.evaluate import plots
from simclr_jax.experiment import build

if TYPE_CHECKING:
    from simclr_jax.experiment.training import Training

COUNT = 8  # pictures


def prepare_views(training: "Training") -> Callable[[], None]:
    """Reads the pictures; returns a function that writes views.png.

    Raises:
      UnreadablePicture: one of them cannot be read.
    """
    c, source = training.config, training.source
    count = min(COUNT, len(source))
    stride = len(source) // count if source.block == 1 else 1  # from several classes
    images = tfdata.read_pictures(source, range(0, count * stride, stride))

    def draw() -> None:
        views = pipeline.preview(build.recipe(c), images, c.seed, colour=c.data.colour)
        path = epath.Path(training.workdir) / "views.png"
        plots.gallery(views, path, originals=images)

    return draw


@contextlib.contextmanager
def beside_steps(
    task: Callable[[], None], on_progress: Callable[[], None]
) -> Iterator[Callable[[], None]]:
    """Runs a task in another thread, from the first progress of the body on.

    Earlier it would slow down the compilation of the step. It ends before the body's
    context does.

    Yields:
      on_progress, which raises the error of the task if it has failed; so does the end.
    """
    futures: list[concurrent.futures.Future] = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:

        def progress() -> None:
            if not futures:
                futures.append(pool.submit(task))
            elif futures[0].done():
                futures[0].result()
            on_progress()

        yield progress
        for future in futures:
            future.result()
