"""The CPU time of the input pipeline against the straightforward recipe.

python -m tests.benchmarks.input DATA_DIR [SECONDS [ROUNDS]]

DATA_DIR holds `imagenet_like`, JPEGs of photographs as TFDS keeps them; two views of
224 pixels. `plain` is the recipe as SimCLR's authors published it, written again here:
whole pictures to float, two crops, jitter through HSV with a branch for each operation,
and, if the host blurs, a blur of all views of which half are used. The pipelines are
measured in turn; the table has the medians of the rounds.
"""

import glob
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from simclr_jax.batch import Batch
from simclr_jax.data.pipeline import train_batches
from simclr_jax.data.recipes import simclr
from simclr_jax.data.sources import open_source
from simclr_jax.data.throughput import consume
from tests.benchmarks.measure import machine

SIZE, BATCH = 224, 64
NAME = "imagenet_like"


def main(folder: str, seconds: str = "5", rounds: str = "5") -> None:
    makers = {
        "decode alone": lambda: plain(folder, decode_only=True),
        "plain": lambda: plain(folder),
        "plain, blur on the host": lambda: plain(folder, blur=True),
        "ours, colour = device": lambda: ours(folder, "device"),
        "ours, colour = host": lambda: ours(folder, "host"),
    }
    times: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(int(rounds)):
        for name, make in makers.items():
            images, cpu = consume(make(), BATCH, float(seconds))
            times[name].append(1e3 * cpu / images)
    ms = {name: statistics.median(x) for name, x in times.items()}
    print(machine("tensorflow", "jax"))
    print("\n| pipeline | ms an image | images/s a core | range, ms |")
    print("|---|---|---|---|")
    for name, x in times.items():
        speed, low, high = 1e3 / ms[name], min(x), max(x)
        print(f"| {name} | {ms[name]:.2f} | {speed:.0f} | {low:.2f} to {high:.2f} |")
    decode, plainly, blurred, device, host = ms.values()
    print(f"\ndevice: {plainly / device:.2f} of plain's throughput, 2.0 required")
    print(f"device: {device / decode:.2f} of decode's cost, 1.8 allowed")
    print(
        f"host: {blurred / host:.2f} of the throughput of plain with blur, 1.3 required"
    )


def ours(folder: str, colour: str) -> Iterator[Batch]:
    """The batches of this package."""
    source = open_source(NAME, data_dir=folder, split="train")
    return train_batches(
        source,
        simclr(size=SIZE),
        batch_size=BATCH,
        seed=0,
        first_step=0,
        steps=2**40,
        colour=colour,
    )


# The published recipe.


def plain(
    folder: str, *, blur: bool = False, decode_only: bool = False
) -> Iterator[Any]:
    """Batches of float32 [N, S, S, 6], or only of shapes."""
    files = sorted(glob.glob(f"{folder}/{NAME}/*/{NAME}-train.tfrecord*"))
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def example(record):
        parsed = tf.io.parse_single_example(record, features)
        image = tf.io.decode_jpeg(parsed["image"], channels=3)
        if decode_only:
            return tf.shape(image), parsed["label"]
        views = [view(image), view(image)]
        return tf.concat(views, -1), tf.one_hot(parsed["label"], 1000)

    data = tf.data.TFRecordDataset(files).repeat()
    if not decode_only:
        data = data.shuffle(2 * BATCH)
    data = data.map(example, tf.data.AUTOTUNE).batch(BATCH)
    if blur:
        data = data.map(blur_half, tf.data.AUTOTUNE)
    yield from data.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def view(image: tf.Tensor) -> tf.Tensor:
    """uint8 [H, W, 3] -> one view, float32 [S, S, 3]."""
    image = tf.image.convert_image_dtype(image, tf.float32)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(image),
        tf.constant([0.0, 0.0, 1.0, 1.0], shape=[1, 1, 4]),
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    image = tf.image.resize(tf.slice(image, begin, size), [SIZE, SIZE], "bicubic")
    image = tf.image.random_flip_left_right(image)
    image = at_random(0.8, jitter, image)
    image = at_random(0.2, grey, image)
    return tf.clip_by_value(tf.reshape(image, [SIZE, SIZE, 3]), 0.0, 1.0)


def at_random(
    probability: float, f: Callable[[tf.Tensor], tf.Tensor], image: tf.Tensor
) -> tf.Tensor:
    return tf.cond(tf.random.uniform([]) < probability, lambda: f(image), lambda: image)


def jitter(image: tf.Tensor) -> tf.Tensor:
    """Four operations in random order, each followed by a clip."""
    operations = (
        lambda x: tf.image.random_brightness(x, 0.8),
        lambda x: tf.image.random_contrast(x, 0.2, 1.8),
        lambda x: tf.image.random_saturation(x, 0.2, 1.8),
        lambda x: tf.image.random_hue(x, 0.2),
    )
    order = tf.random.shuffle(tf.range(4))
    for slot in range(4):
        branches = [lambda f=f, x=image: f(x) for f in operations]
        image = tf.switch_case(order[slot], branches)
        image = tf.clip_by_value(image, 0.0, 1.0)
    return image


def grey(image: tf.Tensor) -> tf.Tensor:
    return tf.tile(tf.image.rgb_to_grayscale(image), [1, 1, 3])


def blur_half(views: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Blurs both views of all pictures, one sigma a batch, and uses half of them."""
    blurred = []
    for images in tf.split(views, 2, -1):
        half = tf.random.uniform([tf.shape(images)[0], 1, 1, 1]) < 0.5
        mask = tf.cast(half, tf.float32)
        images = gaussian(images) * mask + images * (1 - mask)
        blurred.append(tf.clip_by_value(images, 0.0, 1.0))
    return tf.concat(blurred, -1), label


def gaussian(images: tf.Tensor) -> tf.Tensor:
    radius = SIZE // 10 // 2
    x = tf.range(-radius, radius + 1, dtype=tf.float32)
    taps = tf.exp(-(x**2) / (2 * tf.random.uniform([], 0.1, 2.0) ** 2))
    taps = tf.tile((taps / tf.reduce_sum(taps))[:, None, None, None], [1, 1, 3, 1])
    for kernel in (taps, tf.transpose(taps, [1, 0, 2, 3])):
        images = tf.nn.depthwise_conv2d(images, kernel, [1] * 4, "SAME")
    return images


if __name__ == "__main__":
    main(*sys.argv[1:])
