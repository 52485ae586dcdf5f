"""The settings of a view of a picture, and their allowed values."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from simclr_jax.suggest import check_name, did_you_mean

CROPS = ("tf_bbox", "inception_log", "torch")
RESIZES = ("bicubic", "pil_bilinear", "pil_bicubic")
COLOURS = ("tf", "pil")
BRIGHTNESS_MODES = ("additive", "multiplicative")
BLUR_SIGMA = ("image", "batch")
# In the order in which they are applied (see View).
OPERATIONS = ("crop", "flip", "rotation", "jitter", "grey", "blur", "solarise")
# Of each operation, the attribute of View with its probability.
PROBABILITIES = {name: name for name in OPERATIONS} | {"crop": "crop_probability"}

Pair = tuple[float, float]
Limits = tuple[float, float, float, float]  # brightness, contrast, saturation, hue


@dataclasses.dataclass(frozen=True)
class View:
    """The settings of one view (or of `copies` equal ones).

    Operations are applied in the order of OPERATIONS, MoCo v1's grey before the jitter.

    Attributes:
      size: side of the square view in pixels.
      crop: "tf_bbox" (TensorFlow's sampler, SimCLR), "inception_log" (BYOL) or "torch"
        (torchvision, all other papers).
      crop_probability: of such a crop; otherwise the view is the largest square in the
        middle of the picture.
      area: smallest and largest share of the picture that a crop may cover.
      aspect: smallest and largest width over height of a crop.
      resize: "bicubic" (TensorFlow's, without antialiasing), "pil_bilinear" or
        "pil_bicubic" (PIL's, with antialiasing).
      colours: the library to reproduce: "tf" (SimCLR, BYOL) or "pil" (torchvision on
        PIL).
      flip: probability of a left-right flip.
      rotation: probability of a rotation by 90, 180 or 270 degrees, each equally likely
        (all four orientations are with 0.75); with 0 it is not compiled.
      jitter: probability of the colour jitter, four operations in random order.
      brightness: largest shift, or largest deviation of the factor from 1.
      brightness_mode: "additive" (SimCLR v1, BYOL) or "multiplicative" (SimCLR v2,
        PIL).
      contrast: largest deviation of the factor from 1.
      saturation: largest deviation of the factor from 1.
      hue: largest rotation, in turns.
      grey: probability of dropping the colours.
      grey_first: whether grey is before the jitter (MoCo v1) instead of after it.
      blur: probability of the Gaussian blur; with 0 it is not compiled.
      sigma: smallest and largest width of the blur, in pixels.
      blur_sigma: one sigma per "image" (papers) or per "batch" (released code).
      solarise: probability of inverting the pixels above one half.
      copies: the number of views with these settings.

    Raises:
      ValueError: unknown option, or a number out of its range.
    """

    size: int
    crop: str = "tf_bbox"
    crop_probability: float = 1.0
    area: Pair = (0.08, 1.0)
    aspect: Pair = (3 / 4, 4 / 3)
    resize: str = "bicubic"
    colours: str = "tf"
    flip: float = 0.5
    rotation: float = 0.0
    jitter: float = 0.0
    brightness: float = 0.0
    brightness_mode: str = "additive"
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    grey_first: bool = False
    blur: float = 0.0
    sigma: Pair = (0.1, 2.0)
    blur_sigma: str = "image"
    solarise: float = 0.0
    copies: int = 1

    def __post_init__(self):
        _one_of("crop", self.crop, CROPS)
        _one_of("resize", self.resize, RESIZES)
        _one_of("colours", self.colours, COLOURS)
        _one_of("brightness", self.brightness_mode, BRIGHTNESS_MODES)
        _one_of("blur_sigma", self.blur_sigma, BLUR_SIGMA)
        for name in PROBABILITIES.values():
            check_range(name, getattr(self, name), 0, 1, "a probability")
        for name in ("contrast", "saturation"):
            check_range(name, getattr(self, name), 0, 1, "factors must not be below 0")
        check_range("hue", self.hue, 0, 0.5, "half a turn reaches every colour")
        check_range("brightness", self.brightness, 0, float("inf"), "a strength")
        _interval("area", self.area, 1)
        _interval("aspect", self.aspect, float("inf"))
        _interval("sigma", self.sigma, float("inf"))
        for name in ("size", "copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {self!r}.")
        if self.colours == "pil" and self.brightness_mode != "multiplicative":
            raise ValueError(
                'colours="pil" multiplies: brightness_mode must be "multiplicative", '
                f"got {self.brightness_mode!r}."
            )

    @property
    def taps(self) -> int:
        """Length of the blur's kernel, odd.

        For "tf" a tenth of the side, rounded as in the released code; for "pil" four
        times the largest sigma to either side, which leaves out 6e-5 of a Gaussian.
        """
        if self.colours == "pil":
            return 2 * math.ceil(4 * self.sigma[1]) + 1
        return 2 * (self.size // 10 // 2) + 1


def jittered(limits: Limits, strength: float, **settings: Any) -> View:
    """A view whose largest changes of colour are `strength` times the limits.

    Args:
      limits: largest changes at strength 1, as in `View`.
      settings: further arguments of `View`.

    Raises:
      ValueError: a limit, or the strength, is out of its range.
    """
    brightness, contrast, saturation, hue = limits
    largest = max(0, contrast, saturation, 2 * hue)  # of which none may exceed 1
    reason = f"times jitter_limits={limits}, factors fall below 0 beyond that"
    check_range("strength", strength, 0, 1 / largest if largest else math.inf, reason)
    return View(
        brightness=strength * brightness,
        contrast=strength * contrast,
        saturation=strength * saturation,
        hue=strength * hue,
        **settings,
    )


def unequal(
    view: View, blur: Sequence[float], solarise: Sequence[float]
) -> tuple[View, View]:
    """Two views that differ in the probabilities of blur and solarise.

    Raises:
      ValueError: these are not two probabilities.
    """
    for name, pair in (("blur", blur), ("solarise", solarise)):
        if len(pair) != 2:
            raise ValueError(f"{name} needs 2 probabilities, got {pair}.")
    first, second = (
        dataclasses.replace(view, blur=b, solarise=s)
        for b, s in zip(blur, solarise, strict=True)
    )
    return first, second


def restrict(views: Sequence[View], operations: Sequence[str]) -> tuple[View, ...]:
    """The views with only some of their operations.

    Args:
      views: of a recipe.
      operations: some of OPERATIONS; the probability of the others becomes 0. Their
        order has no meaning.

    Raises:
      ValueError: unknown operation.
    """
    for name in operations:
        check_name(name, OPERATIONS, "augment.operations")
    dropped: dict[str, Any] = {
        PROBABILITIES[name]: 0.0 for name in OPERATIONS if name not in operations
    }
    return tuple(dataclasses.replace(view, **dropped) for view in views)


def check_range(name: str, value: float, low: float, high: float, reason: str) -> None:
    """Raises a ValueError, with the reason, unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}] ({reason}), got {value}.")


def _one_of(name, value, options):
    if value not in options:
        raise ValueError(
            f"{name} is one of {', '.join(options)}, got {value!r}."
            f"{did_you_mean(value, options)}"
        )


def _interval(name, pair, high):
    if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= high:
        limit = "" if high == float("inf") else f" up to {high}"
        raise ValueError(f"{name} is (smallest, largest), above 0{limit}, got {pair}.")
