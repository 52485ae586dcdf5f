"""What a view of a picture is: pure data, from the papers' tables.

| | SimCLR | linear evaluation's training |
|---|---|---|
| crop | `tf_bbox`, area 0.08 to 1 | the same |
| flip | 0.5 | 0.5 |
| jitter | 0.8, of 0.8 s, 0.8 s, 0.8 s, 0.2 s | |
| grey | 0.2 | |
| blur | 0.5, sigma 0.1 to 2 | |
"""

import dataclasses

from simclr_jax.data.hints import nearest

CROPS = ("tf_bbox", "inception_log")
BRIGHTNESS = ("additive", "multiplicative")
BLUR_SIGMA = ("image", "batch")


@dataclasses.dataclass(frozen=True)
class View:
    """How to make one view (or `copies` of them), in the order of the fields.

    Attributes:
      size: side of the square view in pixels.
      crop: "tf_bbox" (TensorFlow's sampler, SimCLR) or "inception_log" (BYOL, torch).
      area: smallest and largest share of the picture that a crop may cover.
      aspect: smallest and largest width over height of a crop.
      flip: probability of a left-right flip.
      jitter: probability of the colour jitter, four operations in random order.
      brightness: largest shift, or largest deviation of the factor from 1.
      brightness_kind: "additive" (SimCLR v1, BYOL) or "multiplicative" (SimCLR v2).
      contrast: largest deviation of the factor from 1.
      saturation: largest deviation of the factor from 1.
      hue: largest rotation, in turns.
      grey: probability of dropping the colours.
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
    flip: float = 0.5
    jitter: float = 0.0
    brightness: float = 0.0
    brightness_kind: str = "additive"
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    blur_sigma: str = "image"
    solarise: float = 0.0
    copies: int = 1

    def __post_init__(self):
        _one_of("crop", self.crop, CROPS)
        _one_of("brightness", self.brightness_kind, BRIGHTNESS)
        _one_of("blur_sigma", self.blur_sigma, BLUR_SIGMA)
        for name in ("flip", "jitter", "grey", "blur", "solarise"):
            _within(name, getattr(self, name), 0, 1, "a probability")
        for name in ("contrast", "saturation"):
            _within(name, getattr(self, name), 0, 1, "factors below 0 invert a picture")
        _within("hue", self.hue, 0, 0.5, "half a turn reaches every colour")
        _within("brightness", self.brightness, 0, float("inf"), "a strength")
        _interval("area", self.area, 1)
        _interval("aspect", self.aspect, float("inf"))
        _interval("sigma", self.sigma, float("inf"))
        for name in ("size", "copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {self!r}.")

    @property
    def taps(self) -> int:
        """Length of the blur's kernel: a tenth of the side, rounded as released."""
        return 2 * (self.size // 10 // 2) + 1


def expand(views: tuple[View, ...]) -> tuple[View, ...]:
    """Writes out the copies: one entry for each view that a picture gives."""
    single = (dataclasses.replace(view, copies=1) for view in views)
    pairs = zip(single, views, strict=True)
    return tuple(one for one, view in pairs for _ in range(view.copies))


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
      ValueError: for an unknown word or a number out of its range.
    """
    _within("strength", strength, 0, 1.25, "beyond that factors fall below 0")
    view = View(
        size=size,
        crop=crop,
        jitter=0.8,
        brightness=0.8 * strength,
        brightness_kind=brightness,
        contrast=0.8 * strength,
        saturation=0.8 * strength,
        hue=0.2 * strength,
        grey=0.2,
        blur=blur,
        blur_sigma=blur_sigma,
    )
    return (view, view)


def crop_flip(*, size: int, crop: str = "tf_bbox") -> tuple[View, ...]:
    """One view without colour, SimCLR appendix B.6: trains linear classifiers."""
    return (View(size=size, crop=crop),)


RECIPES = {"simclr": simclr, "crop_flip": crop_flip}


def _one_of(name, word, known):
    if word not in known:
        raise ValueError(
            f"{name} is one of {', '.join(known)}, got {word!r}.{nearest(word, known)}"
        )


def _within(name, value, low, high, why):
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}] ({why}), got {value}.")


def _interval(name, pair, high):
    if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= high:
        limit = "" if high == float("inf") else f" up to {high}"
        raise ValueError(f"{name} is (smallest, largest), above 0{limit}, got {pair}.")
