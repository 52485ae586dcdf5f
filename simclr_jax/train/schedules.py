"""How long a run is, how its learning rate starts and how it goes over the steps."""

import math

import jax.numpy as jnp

LENGTHS = {  # total steps of E epochs over n images in batches of B
    "simclr": lambda n, e, b: math.floor(n * e / b) + 1,  # the released SimCLR code
    "byol": lambda n, e, b: math.floor(n * e / b),  # the released BYOL code
    "whole": lambda n, e, b: math.floor(n // b * e),  # whole epochs, nothing beyond
}

SCALINGS = {  # peak rate of a base rate at batch B
    "linear": lambda lr, b: lr * b / 256,  # SimCLR appendix B.1
    "sqrt": lambda lr, b: lr * b**0.5,
    "none": lambda lr, b: lr,
}


def total_steps(rule: str, images: int, epochs: float, batch_size: int) -> int:
    """Steps of a run by one of the LENGTHS."""
    return LENGTHS[rule](images, epochs, batch_size)


def warmup_steps(epochs: float, images: int, batch_size: int) -> int:
    """floor(E_w n / B), as all the released codes count."""
    return math.floor(epochs * images / batch_size)


def warmup_cosine(peak: float, warmup: int, total: int):
    """Linear from 0 to `peak` over `warmup` steps, then half a cosine to 0 at `total`.

    Returns:
      step -> rate, float32; 0 at step 0 (unless there is no warm-up) and after `total`.
    """

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        left = jnp.clip((total - step) / max(total - warmup, 1), 0, 1)
        # (1 + cos(pi (1 - left))) / 2, but exact to the last step, where 1 + cos is not
        cosine = peak * jnp.sin(jnp.pi / 2 * left) ** 2
        return jnp.where(step < warmup, peak * step / max(warmup, 1), cosine)

    return schedule
