"""What the encoders' factories refuse."""

DTYPES = ("float32", "bfloat16")  # of activations and products


def one_of(what: str, word, allowed: tuple) -> None:
    """Raises a ValueError unless the word is among the allowed ones."""
    if word not in allowed:
        known = ", ".join(map(repr, allowed))
        raise ValueError(f"{what} = {word!r} is not one of {known}.")


def check_pixels(mean, std) -> None:
    """Raises a ValueError unless they are of three channels and std is above 0."""
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise ValueError(
            "mean and std are of red, green and blue, in [0, 1], and std is above 0; "
            f"got mean = {mean}, std = {std}."
        )
