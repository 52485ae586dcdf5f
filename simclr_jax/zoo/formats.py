"""The foreign formats by name."""

from collections.abc import Callable

from simclr_jax.zoo.layout import Found

# name -> reader: the path of a file or folder -> what it holds
FORMATS: dict[str, Callable[[str], Found]] = {}
