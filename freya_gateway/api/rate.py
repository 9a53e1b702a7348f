"""How many messages a user may send in a minute.

Counted in this process: behind n replicas a user may get n times as many. It keeps a runaway client from a large bill;
it is no accounting.
"""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from uuid import UUID

from freya_gateway.errors import TooManyRequests

WINDOW_SECONDS = 60.0


class SendLimiter:
    """A moving window per user: no more than `per_minute` sends in any 60 seconds; 0 for no limit."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        # By the time of the last send, so that who has been quiet for a window stands in front and is forgotten.
        self._sends: OrderedDict[UUID, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        """Users that are remembered."""
        return len(self._sends)

    def check(self, user_id: UUID) -> None:
        """Counts a send. Raises TooManyRequests, and counts nothing, when it is one too many."""
        if not self._per_minute:
            return
        now = self._clock()
        self._forget(now)
        sends = self._sends.setdefault(user_id, deque(maxlen=self._per_minute))
        if len(sends) == self._per_minute and sends[0] > now - WINDOW_SECONDS:
            raise self._too_many(sends[0] + WINDOW_SECONDS - now)
        sends.append(now)
        self._sends.move_to_end(user_id)

    def _forget(self, now: float) -> None:
        while self._sends and next(iter(self._sends.values()))[-1] <= now - WINDOW_SECONDS:
            self._sends.popitem(last=False)

    def _too_many(self, wait: float) -> TooManyRequests:
        seconds = max(1, math.ceil(wait))
        detail = f"That was more than {self._per_minute} messages in a minute; wait {seconds} s."
        return TooManyRequests("rate_limited", detail, retry_after=seconds)
