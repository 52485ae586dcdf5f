"""The recipes written for torchvision on PIL; their table is in `recipes`."""

import dataclasses
import functools
from typing import Any

from simclr_jax.data.view import Limits, Pair, View, check_range, jittered, unequal


def _torchvision(limits: Limits, strength: float, **settings: Any) -> View:
    """A view that is cropped, resized and coloured as torchvision does on PIL."""
    shared = {
        "crop": "torch",
        "resize": "pil_bilinear",
        "colours": "pil",
        "brightness_mode": "multiplicative",
    }
    return jittered(limits, strength, **shared | settings)


def moco_v1(
    *,
    size: int,
    crop_probability: float = 1.0,
    area: Pair = (0.2, 1.0),
    flip: float = 0.5,
    rotation: float = 0.0,
    jitter: float = 1.0,
    jitter_limits: Limits = (0.4, 0.4, 0.4, 0.4),
    strength: float = 1.0,
    grey: float = 0.2,
    blur: float = 0.0,
    sigma: Pair = (0.1, 2.0),
    solarise: float = 0.0,
) -> tuple[View, ...]:
    """Two equal views, MoCo v1's released code: grey, then a strong jitter, always.

    Raises:
      ValueError: a number is out of its range.
    """
    view = _torchvision(
        jitter_limits,
        strength,
        size=size,
        crop_probability=crop_probability,
        area=area,
        flip=flip,
        rotation=rotation,
        jitter=jitter,
        grey=grey,
        blur=blur,
        sigma=sigma,
        solarise=solarise,
        grey_first=True,
    )
    return (view, view)


def moco_v2(
    *,
    size: int,
    crop_probability: float = 1.0,
    area: Pair = (0.2, 1.0),
    flip: float = 0.5,
    rotation: float = 0.0,
    jitter: float = 0.8,
    jitter_limits: Limits = (0.4, 0.4, 0.4, 0.1),
    strength: float = 1.0,
    grey: float = 0.2,
    blur: float = 0.5,  # 0 on CIFAR-10 (SimSiam appendix D)
    sigma: Pair = (0.1, 2.0),
    solarise: float = 0.0,
) -> tuple[View, ...]:
    """Two equal views, MoCo v2's released code; SimSiam appendix A has the same.

    Raises:
      ValueError: a number is out of its range.
    """
    view = _torchvision(
        jitter_limits,
        strength,
        size=size,
        crop_probability=crop_probability,
        area=area,
        flip=flip,
        rotation=rotation,
        jitter=jitter,
        grey=grey,
        blur=blur,
        sigma=sigma,
        solarise=solarise,
    )
    return (view, view)


# t-SimCNE's released code: MoCo v2's views without the blur.
tsimcne = functools.partial(moco_v2, blur=0.0)


def moco_v3(
    *,
    size: int,
    crop_probability: float = 1.0,
    smallest: float = 0.08,  # share of the smallest crop; 0.2 in a ResNet-50's runs
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
    """Two unequal views, MoCo v3's released code.

    Raises:
      ValueError: a number is out of its range.
    """
    view = _torchvision(
        jitter_limits,
        strength,
        size=size,
        crop_probability=crop_probability,
        area=(smallest, 1.0),
        flip=flip,
        rotation=rotation,
        jitter=jitter,
        grey=grey,
        sigma=sigma,
    )
    return unequal(view, blur, solarise)


def dino(
    *,
    size: int,
    crop_probability: float = 1.0,
    global_area: Pair = (0.4, 1.0),  # (0.14, 1) if locals = 0
    local_area: Pair = (0.05, 0.4),
    local_size: int = 96,
    locals: int = 8,
    flip: float = 0.5,
    rotation: float = 0.0,
    jitter: float = 0.8,
    jitter_limits: Limits = (0.4, 0.4, 0.2, 0.1),
    strength: float = 1.0,
    grey: float = 0.2,
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5),
    sigma: Pair = (0.1, 2.0),
    solarise: Pair = (0.0, 0.2),
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

    The other arguments apply to all views; see `recipes`.

    Raises:
      ValueError: a number is out of its range.
    """
    if len(blur) != 3:
        raise ValueError(f"blur needs 3 probabilities, got {blur}.")
    check_range("locals", locals, 0, float("inf"), "0 is no multi-crop")
    large = _torchvision(
        jitter_limits,
        strength,
        size=size,
        crop_probability=crop_probability,
        area=global_area,
        resize="pil_bicubic",
        flip=flip,
        rotation=rotation,
        jitter=jitter,
        grey=grey,
        sigma=sigma,
    )
    views = unequal(large, blur[:2], solarise)
    if locals == 0:
        return views
    small = dataclasses.replace(
        large, size=local_size, area=local_area, blur=blur[2], copies=locals
    )
    return (*views, small)
