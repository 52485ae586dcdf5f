"""From a source of pictures to numpy batches of this process's rows.

The step number is the whole state of the pipeline: it gives the examples (`order`) and
their draws (`augment`), so a run starts at any step at once, and any number of
processes makes the same global batches.
"""

import functools

import jax
import numpy as np

from simclr_jax.batch import Batch
from simclr_jax.data import augment, augment_host, decoded_cache
from simclr_jax.data.recipes import RECIPES, expand
from simclr_jax.data.sampler import Order
from simclr_jax.data.tensorflow import tf
from simclr_jax.data.tfdata import Reading, each

CHUNK = 2**18  # pixels of small views that are coloured together, at most
ALONE = 128  # pixels of a side: from here on, to put views together costs more


def train_batches(
    source,
    views,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    steps: int,
    colour: str = "host",
    process_index: int = 0,
    process_count: int = 1,
):
    """Makes the batches of steps start_step to start_step + steps - 1.

    Args:
      source: a `sources.Source`.
      views: of `view.View`, which `recipes.expand` writes out to V views.
      batch_size: of the global batch, a multiple of process_count.
      seed: of order and draws.
      start_step: updates done before.
      steps: how many batches.
      colour: "host": the views come coloured; "device": they come cropped, with the
        draws from which `augment_device.prepare` colours them inside the step; small
        pictures that fit into memory (see `whole`) come as they are, and it cuts them
        too.
      process_index: p, who this process is; it gets rows [p*N, (p+1)*N).
      process_count: P; N = batch_size / P.

    Returns:
      An iterator of batches with `views` uint8, `index`, `label` if there are labels,
      and `draws` if the device colours; or those of `decoded_cache.batches`.

    Raises:
      ValueError: at once, if the batch does not fit the source or the processes, or
        for an unknown `colour`; later, naming a picture that cannot be read.
    """
    if colour not in ("host", "device"):
        raise ValueError(f'data.colour is "host" or "device", got {colour!r}.')
    views = expand(views)
    order = Order(len(source), batch_size, seed, block=source.block)

    def indices(step):
        return order.indices(step, process_index, process_count)

    def rows(step):
        index, epoch = indices(step)
        return _rows(views, seed, epoch, step, index, colour)

    n, span = len(indices(start_step)[0]), range(start_step, start_step + steps)
    if colour == "device":
        held = decoded_cache.hold(source, views)
        if held is not None:
            return decoded_cache.batches(held, views, seed, indices, span)
    pictures = Reading(source, rows, span)
    made = pictures.batches(_augment(pictures.dataset(), views, colour, n))
    made = (Batch(**fields) for fields in made)
    return made if colour == "host" else _with_draws(made, views, seed, indices, span)


def eval_batches(
    source,
    *,
    size: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
):
    """Walks once through a source in its own order, without augmentation.

    Args:
      source: a `sources.Source`.
      size: S, side of the pictures (see `augment.centre`).
      batch_size: of the global batch, a multiple of process_count.
      process_index: p, who this process is; it gets rows [p*N, (p+1)*N) of each batch.
      process_count: P; N = batch_size / P.

    Returns:
      An iterator of batches with one view, uint8 [N, S, S, 3], `index`, `valid`, and
      `label` if there are labels; equally many in every process. The last batch is
      filled with repetitions of the last picture, whose `valid` is False.

    Raises:
      ValueError: at once, if the processes do not divide the batch; later, naming a
        picture that cannot be read.
    """
    n, rest = divmod(batch_size, process_count)
    if rest or n < 1:
        raise ValueError(
            f"The batch of {batch_size} does not divide among {process_count} "
            f"processes; choose a multiple of {process_count}."
        )

    def rows(step):
        row = step * batch_size + process_index * n + np.arange(n)
        return {"index": np.minimum(row, len(source) - 1), "valid": row < len(source)}

    def centred(picture):
        image = augment.decode(picture.pop("image"))
        return picture | {"views": (augment.centre(image, size),)}

    pictures = Reading(source, rows, range(-(-len(source) // batch_size)))
    made = pictures.batches(each(pictures.dataset(), centred).batch(n))
    return (Batch(**fields) for fields in made)


def decoded_shapes(source, *, batch_size: int, seed: int, steps: int):
    """Reads and decodes the pictures of a run and keeps only their shapes.

    For measuring what that costs. Arguments as those of `train_batches`.

    Returns:
      An iterator of {"shape": int32 [N, 3], "index": int32 [N]}.
    """
    order = Order(len(source), batch_size, seed, block=source.block)

    def rows(step):
        return {"index": order.indices(step)[0]}

    def decode(picture):
        shape = tf.shape(augment.decode(picture["image"]))
        return {"shape": shape, "index": picture["index"]}

    reading = Reading(source, rows, range(steps))
    return reading.batches(each(reading.dataset(), decode).batch(batch_size))


def preview(config, images, seed: int):
    """The views of some pictures as the encoder sees them, before its own mean and std.

    Args:
      config: of a run; read are `data.image_size`, `data.colour` and `augment`.
      images: N pictures, uint8 [H, W, 3] each; their sizes may differ.
      seed: of the draws; the pictures count as numbers 0 to N - 1 of epoch 0.

    Returns:
      V of float32 [N, S, S, 3] in [0, 1].

    Raises:
      ValueError: for something other than pictures, and what the recipe refuses.
    """
    for i, image in enumerate(images):
        image = np.asarray(image)
        fits = image.ndim == 3 and image.shape[2] == 3 and image.size
        if image.dtype != np.uint8 or not fits:
            raise ValueError(
                f"preview wants pictures as uint8 [H, W, 3]; number {i} is "
                f"{image.dtype} {list(image.shape)}."
            )
    words = dict(config.augment)
    recipe = RECIPES[words.pop("name")]
    views = expand(recipe(size=config.data.image_size, **words))
    index, colour = np.arange(len(images)), config.data.colour
    rows = _rows(views, seed, 0, 0, index, colour)

    def numbered():
        for i, image in enumerate(images):
            yield {"image": image} | jax.tree.map(lambda a, i=i: a[i], rows)

    signature = jax.tree.map(lambda a: tf.TensorSpec(a.shape[1:], a.dtype), rows)
    signature["image"] = tf.TensorSpec([None, None, 3], tf.uint8)
    dataset = tf.data.Dataset.from_generator(numbered, output_signature=signature)
    made = _augment(dataset, views, colour, len(images))
    batch = next(made.as_numpy_iterator())
    if colour == "device":
        from simclr_jax.data.augment_device import (
            prepare,  # only here: else data knows no colour
        )

        draws = augment.draw(views, seed, 0, 0, index)
        coloured = jax.jit(prepare(views))(Batch(draws=draws, views=batch["views"]))
        return tuple(np.asarray(x) for x in coloured.views)
    return tuple(x.astype(np.float32) / 255 for x in batch["views"])


def _rows(views, seed, epoch, step, index, colour):
    """What the host needs to have drawn for these pictures, one row each."""
    keys = augment.crop_keys(len(views), seed, epoch, index)
    rows = {"index": index, "key": keys}
    if colour == "host":
        rows["draws"] = augment.draw(views, seed, epoch, step, index)
    return rows


def _with_draws(batches, views, seed, indices, steps):
    """The batches of some steps, with what the device needs to have drawn."""
    for step, batch in zip(steps, batches, strict=True):
        index, epoch = indices(step)
        yield batch.replace(draws=augment.draw(views, seed, epoch, step, index))


def _augment(pictures, views, colour, n):
    """Single pictures with their rows -> batches of n, as `train_batches` says."""

    def cut(picture):
        image, keys = augment.decode(picture.pop("image")), picture.pop("key")
        crops = [augment.crop(image, keys[v], view) for v, view in enumerate(views)]
        return picture | {"views": tuple(crops)}

    def rounded(picture):
        picture = cut(picture)
        return picture | {"views": tuple(map(augment.to_uint8, picture["views"]))}

    if colour == "device":
        return each(pictures, rounded).batch(n)

    # Equal views, such as local crops, share one function: it is built once.
    paints = {
        view: tf.function(
            functools.partial(augment_host.colour, view=view), autograph=False
        )
        for view in views
    }

    def painted(batch):
        drawn = zip(batch["views"], batch.pop("draws"), views, strict=True)
        done = (paints[view](x / 255, d) for x, d, view in drawn)
        return batch | {"views": tuple(augment.to_uint8(255 * x) for x in done)}

    def alone(picture):
        one = tf.nest.map_structure(lambda x: x[None], cut(picture))
        return tf.nest.map_structure(lambda x: x[0], painted(one))

    largest = max(view.size for view in views)
    if largest >= ALONE:
        return each(pictures, alone).batch(n)
    chunk = max(1, min(n, CHUNK // largest**2))
    return each(each(pictures, cut).batch(chunk), painted).rebatch(n)
