"""How often somebody may come: a bucket each, which holds a minute's worth and fills steadily."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

_REMEMBERED = 10_000  # of those who came last


class Rates:
    """Counts by name, for any number of threads.

    Parameters
    ----------
    clock
        Seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._turn = clock, threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, when it was reckoned

    def allow(self, who: str, per_minute: int) -> bool:
        """Count one more of somebody; False if that is too many."""
        now = self._clock()
        with self._turn:
            left, then = self._buckets.pop(who, (float(per_minute), now))
            left = min(float(per_minute), left + (now - then) * per_minute / 60)
            self._buckets[who] = (max(left - 1, 0.0), now)
            if len(self._buckets) > _REMEMBERED:
                self._buckets.popitem(last=False)
        return left >= 1
