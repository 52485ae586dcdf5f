"""What a view of a picture is, and what its numbers may be."""

import dataclasses
import math

from simclr_jax.suggest import did_you_mean

CROPS = ("tf_bbox", "inception_log", "torch")
RESIZES = ("bicubic", "pil_bilinear", "pil_bicubic")
COLOURS = ("tf", "pil")
BRIGHTNESS = ("additive", "multiplicative")
BLUR_SIGMA = ("image", "batch")


@dataclasses.dataclass(frozen=True)
class View:
    """How to make one view (or `copies` of them), in the order of the fields.

    Attributes:
      size: side of the square view in pixels.
      crop: "tf_bbox" (TensorFlow's sampler, SimCLR), "inception_log" (BYOL) or "torch"
        (torchvision's, of all the others).
      area: smallest and largest share of the picture that a crop may cover.
      aspect: smallest and largest width over height of a crop.
      resize: "bicubic" (TensorFlow's, without antialias), "pil_bilinear" or
        "pil_bicubic" (PIL's, with).
      colours: whose arithmetic: "tf" (SimCLR, BYOL) or "pil" (torchvision on PIL).
      flip: probability of a left-right flip.
      jitter: probability of the colour jitter, four operations in random order.
      brightness: largest shift, or largest deviation of the factor from 1.
      brightness_kind: "additive" (SimCLR v1, BYOL) or "multiplicative" (SimCLR v2,
        PIL).
      contrast: largest deviation of the factor from 1.
      saturation: largest deviation of the factor from 1.
      hue: largest rotation, in turns.
      grey: probability of dropping the colours.
      grey_first: before the jitter, not after it (MoCo v1).
      blur: probability of the Gaussian blur; 0 leaves it out of the program.
      sigma: smallest and largest width of the blur, in pixels.
      blur_sigma: one sigma an "image" (the papers) or a "batch" (the released code).
      solarise: probability of inverting the pixels above one half.
      copies: how many views of this kind to draw.

    Raises:
      ValueError: for an unknown word or a number out of its range.
    """

    size: int
    crop: str = "tf_bbox"
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    resize: str = "bicubic"
    colours: str = "tf"
    flip: float = 0.5
    jitter: float = 0.0
    brightness: float = 0.0
    brightness_kind: str = "additive"
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    grey_first: bool = False
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    blur_sigma: str = "image"
    solarise: float = 0.0
    copies: int = 1

    def __post_init__(self):
        _one_of("crop", self.crop, CROPS)
        _one_of("resize", self.resize, RESIZES)
        _one_of("colours", self.colours, COLOURS)
        _one_of("brightness", self.brightness_kind, BRIGHTNESS)
        _one_of("blur_sigma", self.blur_sigma, BLUR_SIGMA)
        for name in ("flip", "jitter", "grey", "blur", "solarise"):
            within(name, getattr(self, name), 0, 1, "a probability")
        for name in ("contrast", "saturation"):
            within(name, getattr(self, name), 0, 1, "factors below 0 invert a picture")
        within("hue", self.hue, 0, 0.5, "half a turn reaches every colour")
        within("brightness", self.brightness, 0, float("inf"), "a strength")
        _interval("area", self.area, 1)
        _interval("aspect", self.aspect, float("inf"))
        _interval("sigma", self.sigma, float("inf"))
        for name in ("size", "copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {self!r}.")
        if self.colours == "pil" and self.brightness_kind != "multiplicative":
            raise ValueError(
                'colours="pil" multiplies: brightness_kind must be "multiplicative", '
                f"got {self.brightness_kind!r}."
            )

    @property
    def taps(self) -> int:
        """Length of the blur's kernel, odd.

        Of "tf" a tenth of the side, rounded as released; of "pil" four of the largest
        sigma to each side, whatever the size: beyond them lie 6e-5 of a Gaussian.
        """
        if self.colours == "pil":
            return 2 * math.ceil(4 * self.sigma[1]) + 1
        return 2 * (self.size // 10 // 2) + 1


def within(name, value, low, high, why):
    """Raises a ValueError unless low <= value <= high, which is so because of `why`."""
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}] ({why}), got {value}.")


def _one_of(name, word, known):
    if word not in known:
        raise ValueError(
            f"{name} is one of {', '.join(known)}, got {word!r}."
            f"{did_you_mean(word, known)}"
        )


def _interval(name, pair, high):
    if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= high:
        limit = "" if high == float("inf") else f" up to {high}"
        raise ValueError(f"{name} is (smallest, largest), above 0{limit}, got {pair}.")
