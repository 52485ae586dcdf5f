"""From a source of pictures to numpy batches of this process's rows.

The step number is the whole state of the pipeline: examples (`sampler`) and random
numbers (`augment`) are functions of it, so a run can start at any step, and any number
of processes makes the same global batches.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from simclr_jax.batch import Batch
from simclr_jax.data import (
    augment,
    augment_device,
    decoded_cache,
    host_views,
    resizing,
)
from simclr_jax.data.recipes import expand
from simclr_jax.data.sampler import Sampler
from simclr_jax.data.sources import Source
from simclr_jax.data.tensorflow import tf
from simclr_jax.data.tfdata import PictureReader, parallel_map
from simclr_jax.data.view import View


def train_batches(
    source: Source,
    views: Sequence[View],
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    steps: int,
    colour: str = "host",
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Makes the batches of steps first_step to first_step + steps - 1.

    Args:
      source: of the pictures.
      views: of a recipe; `recipes.expand` gives V single views.
      batch_size: of the global batch, a multiple of process_count.
      seed: of order and draws.
      first_step: updates done before.
      steps: the number of batches.
      colour: "host": the views are coloured; "device": they are only cropped, and
        `augment_device.prepare` colours them inside the step; small pictures that fit
        into memory (see `decoded_cache`) are sent whole, and it crops them, too.
      process_index: p; this process gets rows [p*N, (p+1)*N).
      process_count: P; N = batch_size / P.

    Returns:
      An iterator of batches with `views` uint8, `index`, `label` if there are labels,
      and `draws` if the device colours; or those of `decoded_cache.batches`.

    Raises:
      ValueError: at once, if the batch does not fit the source or the processes, or
        for an unknown `colour`.
      UnreadablePicture: a picture cannot be read; at once if they are small (see
        `decoded_cache`), otherwise by the iterator.
    """
    if colour not in ("host", "device"):
        raise ValueError(f'data.colour is "host" or "device", got {colour!r}.')
    views = expand(views)
    sampler = Sampler(len(source), batch_size, seed, block=source.block)

    def indices(step):
        return sampler.indices(step, process_index, process_count)

    def rows(step):
        index, epoch = indices(step)
        return _rows(views, seed, epoch, step, index, colour)

    def rows_with_windows(step):
        index, epoch = indices(step)
        draws = decoded_cache.draw(views, seed, epoch, step, index)
        return {"index": index, "draws": draws}

    n = len(indices(first_step)[0])
    step_range = range(first_step, first_step + steps)
    decoded = decoded_cache.load(source, views)
    if decoded is None:
        reader = PictureReader(source, rows, step_range)
        dataset = host_views.from_pictures(reader.dataset(), views, colour, n)
    elif colour == "host":
        reader = PictureReader(decoded, rows_with_windows, step_range)
        dataset = host_views.from_decoded(reader.by_step(), views, n)
    else:
        return decoded_cache.batches(decoded, views, seed, indices, step_range)
    batches = (Batch(**fields) for fields in reader.batches(dataset))
    if colour == "host":
        return batches
    return _with_draws(batches, views, seed, indices, step_range)


def eval_batches(
    source: Source,
    *,
    size: int,
    batch_size: int,
    crop: Callable[[Any, int], Any] = resizing.centre,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """All pictures of a source once, in its order, without augmentation.

    Args:
      source: of the pictures.
      size: S, side of the pictures.
      batch_size: of the global batch, a multiple of process_count.
      crop: of a decoded picture, uint8 [H, W, 3], to S, such as those of `resizing`.
      process_index: p; this process gets rows [p*N, (p+1)*N) of each batch.
      process_count: P; N = batch_size / P.

    Returns:
      An iterator of batches with one view, uint8 [N, S, S, 3], `index`, `valid`, and
      `label` if there are labels; every process gets the same number of batches. The
      last batch is filled with repetitions of the last picture, whose `valid` is False.

    Raises:
      ValueError: at once, if the processes do not divide the batch.
      UnreadablePicture: by the iterator, if a picture cannot be read.
    """
    n, remainder = divmod(batch_size, process_count)
    if remainder or n < 1:
        raise ValueError(
            f"The batch of {batch_size} does not divide among {process_count} "
            f"processes; choose a multiple of {process_count}."
        )

    def rows(step):
        row = step * batch_size + process_index * n + np.arange(n)
        return {"index": np.minimum(row, len(source) - 1), "valid": row < len(source)}

    def centre(row):
        image = augment.decode(row.pop("image"))
        return row | {"views": (crop(image, size),)}

    reader = PictureReader(source, rows, range(-(-len(source) // batch_size)))
    dataset = parallel_map(reader.dataset(), centre).batch(n)
    return (Batch(**fields) for fields in reader.batches(dataset))


def decoded_shapes(
    source: Source, *, batch_size: int, seed: int, steps: int
) -> Iterator[dict[str, np.ndarray]]:
    """Reads and decodes the pictures of a run and yields only their shapes.

    For measuring the time of reading and decoding. Arguments as for `train_batches`.

    Returns:
      An iterator of {"shape": int32 [N, 3], "index": int32 [N]}.
    """
    sampler = Sampler(len(source), batch_size, seed, block=source.block)

    def rows(step):
        return {"index": sampler.indices(step)[0]}

    def decode(row):
        shape = tf.shape(augment.decode(row["image"]))
        return {"shape": shape, "index": row["index"]}

    reader = PictureReader(source, rows, range(steps))
    return reader.batches(parallel_map(reader.dataset(), decode).batch(batch_size))


def preview(
    views: Sequence[View],
    images: Sequence[np.ndarray],
    seed: int,
    *,
    colour: str = "host",
) -> tuple[np.ndarray, ...]:
    """The views of some pictures as the encoder gets them, before its mean and std.

    Args:
      views: of a recipe; `recipes.expand` gives V single views.
      images: N pictures, uint8 [H, W, 3]; their sizes may differ.
      seed: of the draws; the pictures count as numbers 0 to N - 1 of epoch 0.
      colour: as in `train_batches`.

    Returns:
      V of float32 [N, S, S, 3] in [0, 1].

    Raises:
      ValueError: an element of `images` is not a picture.
    """
    _check_pictures(images)
    views, index = expand(views), np.arange(len(images))
    rows = _rows(views, seed, 0, 0, index, colour)

    def examples():
        for i, image in enumerate(images):
            yield {"image": image} | jax.tree.map(lambda a, i=i: a[i], rows)

    signature = jax.tree.map(lambda a: tf.TensorSpec(a.shape[1:], a.dtype), rows)
    signature["image"] = tf.TensorSpec([None, None, 3], tf.uint8)
    dataset = tf.data.Dataset.from_generator(examples, output_signature=signature)
    dataset = host_views.from_pictures(dataset, views, colour, len(images))
    batch = Batch(**next(dataset.as_numpy_iterator()))
    if colour == "host":
        return tuple(x.astype(np.float32) / 255 for x in batch.views)
    batch = Batch(draws=augment.draw(views, seed, 0, 0, index), views=batch.views)
    batch = jax.jit(augment_device.prepare(views))(batch)
    return tuple(np.asarray(x) for x in batch.views)


def _check_pictures(images):
    for i, image in enumerate(images):
        image = np.asarray(image)
        fits = image.ndim == 3 and image.shape[2] == 3 and image.size
        if image.dtype != np.uint8 or not fits:
            raise ValueError(
                f"preview needs pictures as uint8 [H, W, 3]; number {i} is "
                f"{image.dtype} {list(image.shape)}."
            )


def _rows(views, seed, epoch, step, index, colour) -> dict[str, Any]:
    """The random numbers that the host needs for these pictures, a row for each."""
    keys = augment.crop_keys(len(views), seed, epoch, index)
    rows = {"index": index, "key": keys}
    if colour == "host":
        rows["draws"] = augment.draw(views, seed, epoch, step, index)
    return rows


def _with_draws(batches, views, seed, indices, steps) -> Iterator[Batch]:
    """The batches of some steps, with the random numbers that the device needs."""
    for step, batch in zip(steps, batches, strict=True):
        index, epoch = indices(step)
        yield batch.replace(draws=augment.draw(views, seed, epoch, step, index))
