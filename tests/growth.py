"""How the time of some work grows with its text: a ratio within one run, which no busy machine changes."""

import time
from collections.abc import Callable

ROUNDS = 5


def growth(work: Callable[[str], object], piece: str, *, longer: int, of: int) -> float:
    """CPU time with `of` characters of the piece, over that with a `longer`-th of them."""
    short, long = piece * (of // longer // len(piece)), piece * (of // len(piece))
    return _seconds(work, long) / _seconds(work, short)


def _seconds(work: Callable[[str], object], text: str) -> float:
    """The least of some rounds, of this thread alone."""
    times: list[float] = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        work(text)
        times.append(time.thread_time() - began)
    return max(min(times), 1e-6)
