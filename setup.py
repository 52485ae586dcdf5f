"""The packages: configs/ is installed as simclr_jax/configs/, its files to be read."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["simclr_jax*"]), "simclr_jax.configs"],
    package_dir={"simclr_jax.configs": "configs"},
)
