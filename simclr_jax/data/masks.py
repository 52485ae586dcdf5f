"""Pictures with masks of their objects, in the form in which attention is compared."""

import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_jax.data import resizing, tfds
from simclr_jax.data.errors import UnreadablePicture
from simclr_jax.data.folder import SUFFIXES, walk
from simclr_jax.data.picture_files import Files
from simclr_jax.data.sources import EMBEDDED, Source, is_folder
from simclr_jax.data.tfdata import decoded
from simclr_jax.storage.files import storage_of
from simclr_jax.storage.paths import absolute

# Sub-folders with pictures, with masks, and with lists of names by split.
LAYOUTS = (
    ("images", "masks", ""),
    ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"),  # of VOC
)
VOC_VOID = 224 * 2**16 + 224 * 2**8 + 192  # the colour of label 255 in VOC's palette
DEPTH = 24  # the byte of a PNG file that has the bits of a sample
PNG = b"\x89PNG\r\n\x1a\n"


class MaskedPictures(NamedTuple):
    """N pictures, and the N masks of the same order, as encoded PNG files."""

    pictures: Source
    masks: Source

    @property
    def name(self) -> str:
        """That of the pictures."""
        return self.pictures.name

    def __len__(self) -> int:
        return len(self.pictures)


def open_masked(
    name: str, *, data_dir: str = "", split: str, workdir: str = ""
) -> MaskedPictures:
    """Opens pictures with masks.

    Args:
      name: a folder with sub-folders `images` and `masks`, or `JPEGImages` and
        `SegmentationClass`; names are equal but for their endings, and pictures
        without a mask are left out. Or a TFDS set with the feature
        `segmentation_mask`.
      data_dir, workdir: as in `sources.open_source`.
      split: of the set; of VOC's folder, a list such as "val" in
        ImageSets/Segmentation. Other folders have no splits: all pictures count.

    Raises:
      ValueError: there is no such folder, set or split, or it has no masks.
    """
    if name == EMBEDDED:
        raise ValueError(f"{name} has no masks: set data.name to a folder or a set.")
    if is_folder(name, data_dir):
        return _folder(absolute(name), split)
    data_dir = absolute(data_dir)
    builder = tfds.find_prepared(name, data_dir) or tfds.prepare(name, data_dir)
    return MaskedPictures(*tfds.open_masks(builder, split, workdir))


def _folder(root: str, split: str) -> MaskedPictures:
    storage = storage_of(root)
    if not storage.is_dir(root):
        raise ValueError(f"There is no folder {root}.")
    folders = storage.entries(root)[0]
    layout = next((x for x in LAYOUTS if {x[0], x[1]} <= set(folders)), None)
    if layout is None:
        pairs = " or ".join(f"{pictures} and {masks}" for pictures, masks, _ in LAYOUTS)
        raise ValueError(f"{root} has no masks: no sub-folders {pairs}.")
    pictures, masks, lists = layout
    files = _by_stem(storage, f"{root}/{pictures}", SUFFIXES)
    mask_files = _by_stem(storage, f"{root}/{masks}", (".png",))
    stems = sorted(files.keys() & mask_files.keys())
    if lists:
        stems = _listed(storage, f"{root}/{lists}", split, stems)
    if not stems:
        raise ValueError(
            f"{root}: no picture of {pictures} has a mask of its name, a PNG file, in "
            f"{masks}."
        )

    name = os.path.basename(root)
    return MaskedPictures(
        Files(name, [files[stem] for stem in stems]),
        Files(f"{name}/{masks}", [mask_files[stem] for stem in stems]),
    )


def _by_stem(storage, folder, suffixes) -> dict[str, str]:
    """{name below the folder, without ending: path}."""
    paths = [x for x in walk(storage, folder) if x.lower().endswith(suffixes)]
    return {os.path.splitext(x.removeprefix(f"{folder}/"))[0]: x for x in paths}


def _listed(storage, folder, split, stems: Sequence[str]) -> list[str]:
    names = storage.entries(folder)[1] if storage.is_dir(folder) else []
    split = {"validation": "val"}.get(split, split)
    if f"{split}.txt" not in names:
        raise ValueError(
            f"{folder} has no list {split}.txt for data.eval_split={split}; it has "
            f"{', '.join(names) or 'none'}."
        )
    text = storage.read_all(f"{folder}/{split}.txt").decode()
    return sorted(set(text.split()) & set(stems))


def masked_batches(
    data: MaskedPictures, *, size: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pictures once, resized whole to a square, with their masks.

    Yields:
      uint8 [n, S, S, 3] (bicubic), and int32 [n, S, S] (nearest); n is `batch_size`, in
      the last batch less.

    Raises:
      UnreadablePicture: a picture or a mask cannot be read or decoded.
      ValueError: a mask is not of its picture's size.
    """
    for first in range(0, len(data), batch_size):
        rows = np.arange(first, min(first + batch_size, len(data)))
        pictures, masks = (source.read(rows)["image"] for source in data)
        names = map(data.pictures.describe, rows)
        pairs = map(functools.partial(_pair, size), pictures, masks, names)
        images, masks = zip(*pairs, strict=True)
        yield np.stack(images), np.stack(masks)


def _pair(size, picture, mask, name) -> tuple[np.ndarray, np.ndarray]:
    image = decoded(picture, name)
    labels = decode_mask(mask, f"the mask of {name}")
    if labels.shape != image.shape[:2]:
        raise ValueError(
            f"{name} has {image.shape[1]} x {image.shape[0]} pixels, and its mask "
            f"{labels.shape[1]} x {labels.shape[0]}."
        )
    rows, columns = (_nearest(side, size) for side in labels.shape)
    return _resized(image, size), labels[rows[:, None], columns]


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    return resizing.to_uint8(resizing.resize(image, size)).numpy()


@functools.lru_cache(maxsize=64)
def _nearest(old: int, new: int) -> np.ndarray:
    """The pixels of a side of `old` that are nearest to those of a side of `new`."""
    return np.floor((np.arange(new) + 0.5) * old / new).astype(int)


def decode_mask(data: bytes, name: str) -> np.ndarray:
    """The label of every pixel, int32 [H, W].

    Args:
      data: a PNG file. Grey values are the labels. Colours, also those of a palette,
        are numbers of 24 bits, but for VOC's palette: its void is 255.
      name: for the message.

    Raises:
      UnreadablePicture: it is no PNG file, or has 16 bits a sample.
    """
    if not data.startswith(PNG) or data[DEPTH] > 8:
        raise UnreadablePicture(f"{name} is no PNG file of at most 8 bits a sample.")
    rgb: Any = decoded(data, name).astype(np.int32)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return red
    colour = red * 2**16 + green * 2**8 + blue
    return np.where(colour == VOC_VOID, 255, colour)
