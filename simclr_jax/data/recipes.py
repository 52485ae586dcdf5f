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
is 0.1 to 2 pixels; there is no rotation. Views that are resized as in PIL are coloured
as in PIL, the others as in TensorFlow. SimSiam uses `moco_v2`, linear classifiers
`crop_flip`. The recipes for torchvision are in `recipes_torchvision`.

All recipes have these keys, at the values of the table; `crop_flip`, without colours,
has only those of the crop, the flip and the rotation:

- crop_probability: 1 in all papers; see `View`.
- area: smallest and largest share of the picture that a crop may cover (`moco_v3` has
  `smallest`, `dino` has `global_area` and `local_area` instead).
- flip, rotation, jitter, grey, blur, solarise: probabilities, as in `View`; of blur and
  solarise one for each view where the views differ.
- jitter_limits: largest change of brightness, contrast, saturation and hue, as in
  `View`; `strength` multiplies all four.
- sigma: smallest and largest width of the blur, in pixels.
"""

import dataclasses
from collections.abc import Callable, Sequence

from simclr_jax.data.recipes_torchvision import (
    dino,
    moco_v1,
    moco_v2,
    moco_v3,
    tsimcne,
)
from simclr_jax.data.view import Limits, Pair, View, jittered, unequal


def expand(views: Sequence[View]) -> tuple[View, ...]:
    """Single views: a view with `copies` = n is repeated n times."""
    single = (dataclasses.replace(view, copies=1) for view in views)
    pairs = zip(single, views, strict=True)
    return tuple(view for view, copied in pairs for _ in range(copied.copies))


def simclr(
    *,
    size: int,
    crop: str = "tf_bbox",
    crop_probability: float = 1.0,
    area: Pair = (0.08, 1.0),
    flip: float = 0.5,
    rotation: float = 0.0,
    jitter: float = 0.8,
    jitter_limits: Limits = (0.8, 0.8, 0.8, 0.2),
    strength: float = 1.0,  # s of the paper; 0.5 on CIFAR-10
    brightness: str = "additive",  # v1; "multiplicative" is v2
    grey: float = 0.2,
    blur: float = 0.5,  # 0 on CIFAR-10
    sigma: Pair = (0.1, 2.0),
    blur_sigma: str = "image",
    solarise: float = 0.0,
) -> tuple[View, ...]:
    """Two equal views, SimCLR appendix A with the released code's numbers.

    Raises:
      ValueError: unknown option, or a number out of its range.
    """
    view = jittered(
        jitter_limits,
        strength,
        size=size,
        crop=crop,
        crop_probability=crop_probability,
        area=area,
        flip=flip,
        rotation=rotation,
        jitter=jitter,
        brightness_mode=brightness,
        grey=grey,
        blur=blur,
        sigma=sigma,
        blur_sigma=blur_sigma,
        solarise=solarise,
    )
    return (view, view)


def byol(
    *,
    size: int,
    crop: str = "inception_log",
    crop_probability: float = 1.0,
    area: Pair = (0.08, 1.0),
    flip: float = 0.5,
    rotation: float = 0.0,
    jitter: float = 0.8,
    jitter_limits: Limits = (0.4, 0.4, 0.2, 0.1),
    strength: float = 1.0,
    grey: float = 0.2,
    blur: Pair = (1.0, 0.1),
    sigma: Pair = (0.1, 2.0),
    solarise: Pair = (0.0, 0.2),
) -> tuple[View, ...]:
    """Two unequal views, BYOL appendix B with the released code's numbers.

    That code clips the overshoot of the resize before the colours are changed; here, as
    in SimCLR's code, the first colour operation that clips does it.

    Raises:
      ValueError: unknown option, or a number out of its range.
    """
    view = jittered(
        jitter_limits,
        strength,
        size=size,
        crop=crop,
        crop_probability=crop_probability,
        area=area,
        flip=flip,
        rotation=rotation,
        jitter=jitter,
        grey=grey,
        sigma=sigma,
    )
    return unequal(view, blur, solarise)


def crop_flip(
    *,
    size: int,
    crop: str = "tf_bbox",
    crop_probability: float = 1.0,
    area: Pair = (0.08, 1.0),
    flip: float = 0.5,
    rotation: float = 0.0,
) -> tuple[View, ...]:
    """One view without colour operations, for linear classifiers: SimCLR app. B.6.

    Raises:
      ValueError: unknown option, or a number out of its range.
    """
    view = View(
        size=size,
        crop=crop,
        crop_probability=crop_probability,
        area=area,
        flip=flip,
        rotation=rotation,
    )
    return (view,)


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
