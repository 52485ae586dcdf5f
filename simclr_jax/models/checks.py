"""Checks of the encoders' arguments."""

from typing import Any

DTYPES = ("float32", "bfloat16")  # of activations and products


def one_of(argument: str, value: Any, allowed: tuple) -> None:
    """Raises a ValueError unless the argument's value is among the allowed ones."""
    if value not in allowed:
        values = ", ".join(map(repr, allowed))
        raise ValueError(f"{argument} = {value!r} is not one of {values}.")


def check_pixels(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Raises a ValueError unless both have three channels and std is above 0."""
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise ValueError(
            "mean and std have three numbers each, red, green and blue, in [0, 1], "
            f"with std above 0; got mean = {mean}, std = {std}."
        )
