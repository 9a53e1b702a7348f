"""The limit on sends: a moving window per user, which forgets who has been quiet."""

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freya_gateway.api.rate import SendLimiter
from freya_gateway.errors import TooManyRequests


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def accepted(limiter: SendLimiter, user: UUID) -> bool:
    try:
        limiter.check(user)
    except TooManyRequests:
        return False
    return True


def test_the_send_beyond_the_limit_is_refused_until_the_first_is_a_minute_old() -> None:
    clock, user = Clock(), uuid4()
    limiter = SendLimiter(2, clock=clock)
    limiter.check(user)
    clock.now += 10.5
    limiter.check(user)
    with pytest.raises(TooManyRequests) as refusal:
        limiter.check(user)
    assert (refusal.value.code, refusal.value.retry_after) == ("rate_limited", 50)
    clock.now += refusal.value.retry_after or 0
    limiter.check(user)
    assert not accepted(limiter, user)


def test_one_user_does_not_use_up_what_another_has() -> None:
    limiter = SendLimiter(1)
    one, other = uuid4(), uuid4()
    assert accepted(limiter, one)
    assert not accepted(limiter, one)
    assert accepted(limiter, other)


def test_the_shortest_wait_is_a_second() -> None:
    clock, user = Clock(), uuid4()
    limiter = SendLimiter(1, clock=clock)
    limiter.check(user)
    clock.now += 59.9
    with pytest.raises(TooManyRequests) as refusal:
        limiter.check(user)
    assert refusal.value.retry_after == 1


def test_zero_is_no_limit_and_remembers_nobody() -> None:
    limiter, user = SendLimiter(0), uuid4()
    assert all(accepted(limiter, user) for _ in range(1000))
    assert len(limiter) == 0


def test_quiet_users_are_forgotten() -> None:
    clock = Clock()
    limiter = SendLimiter(5, clock=clock)
    for _ in range(10_000):
        limiter.check(uuid4())
        clock.now += 0.1
    assert len(limiter) <= 601


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 2), st.floats(0, 70, allow_nan=False)), max_size=40),
)
def test_it_is_the_window_that_it_says(limit: int, sends: list[tuple[int, float]]) -> None:
    clock, users = Clock(), [uuid4() for _ in range(3)]
    limiter = SendLimiter(limit, clock=clock)
    past: list[tuple[int, float]] = []
    for who, pause in sends:
        clock.now += pause
        recent = [when for user, when in past if user == who and when > clock.now - 60]
        assert accepted(limiter, users[who]) is (len(recent) < limit)
        if len(recent) < limit:
            past.append((who, clock.now))
