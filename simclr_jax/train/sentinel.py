"""Watches the metrics of a run for signs of failures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

READINGS = 2  # consecutive logged steps at which a sign must show


class Sentinel:
    """Reports each sign once, when it has shown at READINGS logged steps in a row.

    Args:
      signs: each a `methods.health.Sign`.
      first: the first step to look at; before it, a healthy run may show any sign.
    """

    def __init__(self, signs: Sequence[Any], first: int = 0):
        self._signs, self._first = signs, first
        self._counts = dict.fromkeys((sign.name for sign in signs), 0)

    def __call__(
        self, step: int, metrics: Mapping[str, float]
    ) -> Iterator[tuple[str, str]]:
        """Yields (name, sentence) of the signs that have newly shown.

        Args:
          step: updates done.
          metrics: of this step; a sign whose metrics are not all among them is left
            as it was.
        """
        if step < self._first:
            return
        for sign in self._signs:
            if (
                self._counts[sign.name] == READINGS
                or not sign.limits.keys() <= metrics.keys()
            ):
                continue
            shows = all(
                low <= metrics[name] <= high
                for name, (low, high) in sign.limits.items()
            )
            self._counts[sign.name] = shows * (self._counts[sign.name] + 1)
            if self._counts[sign.name] == READINGS:
                yield sign.name, sign.meaning.format(**metrics)
