"""A timeout for thousands of short waits a second.

asyncio.timeout sets and cancels a timer for each wait. Here one timer serves a whole stream: when it rings, it looks
whether the deadline has moved on meanwhile. It cancels only inside a wait: an asyncio.timeout held around
a generator's `yield` would cancel the consumer.
"""

import asyncio
from types import TracebackType


class Deadline:
    """`with deadline:` around an await raises TimeoutError once `after` seconds have passed. For one task at a time."""

    def __init__(self, after: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time() + after
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._expired = False

    @property
    def remaining(self) -> float:
        """Seconds left, negative when it has passed."""
        return self._at - self._loop.time()

    def move(self, after: float) -> None:
        """Set the deadline anew, `after` seconds from now."""
        self._at = self._loop.time() + after
        if self._timer and self._at < self._rings_at:
            self.close()

    def close(self) -> None:
        """Drop the timer."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def __enter__(self) -> None:
        task = self._task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a task to wake")
        self._cancelling = task.cancelling()
        if self._timer is None:
            self._set_timer()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if not self._expired or task is None:
            return
        self._expired = False
        # Cancelled from elsewhere as well? Then it is that cancellation, as in asyncio.timeout.
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _set_timer(self) -> None:
        self._rings_at = self._at
        self._timer = self._loop.call_at(self._at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._task is None:
            return  # nobody waits; the next wait sets the timer
        if self._loop.time() < self._at:
            self._set_timer()
        else:
            self._expired = True
            self._task.cancel()
