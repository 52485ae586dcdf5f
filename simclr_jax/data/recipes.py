"""The views of the papers, from their tables and released code.

| | `crop`, least area | `resize` | jitter: b, c, s, h | grey | blur | solarise |
|---|---|---|---|---|---|---|
| `simclr` | `tf_bbox` .08 | `bicubic` | .8: .8 s, .8 s, .8 s, .2 s | .2 | .5 | |
| `byol` | `inception_log` .08 | `bicubic` | .8: .4, .4, .2, .1 | .2 | 1, .1 | 0, .2 |
| `moco_v1` | `torch` .2 | `pil_bilinear` | 1: .4, .4, .4, .4 | .2, first | | |
| `moco_v2` | `torch` .2 | `pil_bilinear` | .8: .4, .4, .4, .1 | .2 | .5 | |
| `moco_v3` | `torch` .08 | `pil_bilinear` | .8: .4, .4, .2, .1 | .2 | 1, .1 | 0, .2 |
| `dino` global | `torch` .4 | `pil_bicubic` | .8: .4, .4, .2, .1 | .2 | 1, .1 | 0, .2 |
| `dino` local | `torch` .05 to .4 | `pil_bicubic` | .8: .4, .4, .2, .1 | .2 | .5 | |
| `tsimcne` | `torch` .2 | `pil_bilinear` | .8: .4, .4, .4, .1 | .2 | | |
| `crop_flip` | `tf_bbox` .08 | `bicubic` | | | | |

Two numbers in a cell are the first and the second view's. A crop may cover the whole
picture unless another limit is listed; the flip has probability 0.5; sigma of the blur
is 0.1 to 2 pixels. Views that are resized as in PIL are coloured as in PIL, the others
as in TensorFlow. SimSiam uses `moco_v2`, linear classifiers `crop_flip`.
"""

import dataclasses
from collections.abc import Callable, Sequence

from simclr_jax.data.view import View, check_range


def expand(views: Sequence[View]) -> tuple[View, ...]:
    """Single views: a view with `copies` = n is repeated n times."""
    single = (dataclasses.replace(view, copies=1) for view in views)
    pairs = zip(single, views, strict=True)
    return tuple(view for view, copied in pairs for _ in range(copied.copies))


def simclr(
    *,
    size: int,
    strength: float = 1.0,  # s of the paper; 0.5 on CIFAR-10
    brightness: str = "additive",  # v1; "multiplicative" is v2
    crop: str = "tf_bbox",
    blur: float = 0.5,  # 0 on CIFAR-10
    blur_sigma: str = "image",
) -> tuple[View, ...]:
    """Two equal views, SimCLR appendix A with the released code's numbers.

    Raises:
      ValueError: unknown option, or a number out of its range.
    """
    check_range("strength", strength, 0, 1.25, "beyond that factors fall below 0")
    view = View(
        size=size,
        crop=crop,
        jitter=0.8,
        brightness=0.8 * strength,
        brightness_mode=brightness,
        contrast=0.8 * strength,
        saturation=0.8 * strength,
        hue=0.2 * strength,
        grey=0.2,
        blur=blur,
        blur_sigma=blur_sigma,
    )
    return (view, view)


def byol(
    *,
    size: int,
    crop: str = "inception_log",
    blur: tuple[float, float] = (1.0, 0.1),
    solarise: tuple[float, float] = (0.0, 0.2),
) -> tuple[View, ...]:
    """Two unequal views, BYOL appendix B with the released code's numbers.

    That code clips the overshoot of the resize before the colours are changed; here, as
    in SimCLR's code, the first colour operation that clips does it.

    Args:
      size: side of the views in pixels.
      crop: as in `View`.
      blur: probabilities of the first and the second view.
      solarise: likewise.

    Raises:
      ValueError: unknown option, or a number out of its range.
    """
    view = View(
        size=size,
        crop=crop,
        jitter=0.8,
        brightness=0.4,
        contrast=0.4,
        saturation=0.2,
        hue=0.1,
        grey=0.2,
    )
    return _unequal(view, blur, solarise)


def moco_v1(*, size: int) -> tuple[View, ...]:
    """Two equal views, MoCo v1's released code: grey, then a strong jitter, always."""
    view = _torchvision(size, (0.2, 1.0), saturation=0.4, hue=0.4)
    view = dataclasses.replace(view, jitter=1.0, grey_first=True)
    return (view, view)


def moco_v2(*, size: int, blur: float = 0.5) -> tuple[View, ...]:
    """Two equal views, MoCo v2's released code; SimSiam appendix A has the same.

    Args:
      size: side of the views in pixels.
      blur: its probability; 0 on CIFAR-10 (SimSiam appendix D).

    Raises:
      ValueError: a number is out of its range.
    """
    view = _torchvision(size, (0.2, 1.0), saturation=0.4, blur=blur)
    return (view, view)


def moco_v3(
    *,
    size: int,
    smallest: float = 0.08,  # 0.2 in every run of a ResNet-50
    blur: tuple[float, float] = (1.0, 0.1),
    solarise: tuple[float, float] = (0.0, 0.2),
) -> tuple[View, ...]:
    """Two unequal views, MoCo v3's released code.

    Args:
      size: side of the views in pixels.
      smallest: share of the picture that the smallest crop covers.
      blur: probabilities of the first and the second view.
      solarise: likewise.

    Raises:
      ValueError: a number is out of its range.
    """
    view = _torchvision(size, (smallest, 1.0), saturation=0.2)
    return _unequal(view, blur, solarise)


def dino(
    *,
    size: int,
    global_area: tuple[float, float] = (0.4, 1.0),  # (0.14, 1) if locals = 0
    local_area: tuple[float, float] = (0.05, 0.4),
    local_size: int = 96,
    locals: int = 8,
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5),
    solarise: tuple[float, float] = (0.0, 0.2),
) -> tuple[View, ...]:
    """Multi-crop, DINO's released code: two unequal large views, then the small ones.

    Args:
      size: side of the two global views in pixels.
      global_area: smallest and largest share of the picture that they cover.
      local_area: that of the local views.
      local_size: side of the local views in pixels.
      locals: the number of local views; 0 is no multi-crop.
      blur: probabilities of the first, the second and all local views.
      solarise: probabilities of the first and the second view; 0 for local views.

    Raises:
      ValueError: a number is out of its range.
    """
    _per_view("blur", blur, 3)
    check_range("locals", locals, 0, float("inf"), "0 is no multi-crop")
    large = _torchvision(size, global_area, saturation=0.2, resize="pil_bicubic")
    views = _unequal(large, blur[:2], solarise)
    if locals == 0:
        return views
    small = dataclasses.replace(
        large, size=local_size, area=local_area, blur=blur[2], copies=locals
    )
    return (*views, small)


def tsimcne(*, size: int) -> tuple[View, ...]:
    """Two equal views, t-SimCNE's released code: MoCo v2's without the blur."""
    return moco_v2(size=size, blur=0.0)


def crop_flip(*, size: int, crop: str = "tf_bbox") -> tuple[View, ...]:
    """One view without colour operations, for linear classifiers: SimCLR app. B.6."""
    return (View(size=size, crop=crop),)


RECIPES: dict[str, Callable[..., tuple[View, ...]]] = {
    "simclr": simclr,
    "byol": byol,
    "moco_v1": moco_v1,
    "moco_v2": moco_v2,
    "moco_v3": moco_v3,
    "dino": dino,
    "tsimcne": tsimcne,
    "crop_flip": crop_flip,
}


def _torchvision(
    size, area, *, saturation, hue=0.1, blur=0.0, resize="pil_bilinear"
) -> View:
    """The settings that the recipes written for torchvision share."""
    return View(
        size=size,
        crop="torch",
        area=area,
        resize=resize,
        colours="pil",
        jitter=0.8,
        brightness=0.4,
        brightness_mode="multiplicative",
        contrast=0.4,
        saturation=saturation,
        hue=hue,
        grey=0.2,
        blur=blur,
    )


def _unequal(view, blur, solarise) -> tuple[View, View]:
    """Two views that differ in the probabilities of blur and solarise."""
    _per_view("blur", blur, 2)
    _per_view("solarise", solarise, 2)
    first, second = (
        dataclasses.replace(view, blur=b, solarise=s)
        for b, s in zip(blur, solarise, strict=True)
    )
    return first, second


def _per_view(name, probabilities, count):
    if len(probabilities) != count:
        raise ValueError(f"{name} needs {count} probabilities, got {probabilities}.")
