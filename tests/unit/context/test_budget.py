"""What fits: whole histories, windows that leave in blocks, and a prefix that stays."""

from datetime import UTC, datetime
from itertools import accumulate, pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freya_gateway.context.budget import LEAVING, MESSAGE_OVERHEAD, Budget, cost, window
from freya_gateway.db.prompt import Said
from freya_gateway.llm.tokens import count_tokens

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def history(*tokens: int) -> list[Said]:
    offsets = accumulate(map(cost, tokens), initial=0)
    return [
        Said(UUID(int=n), n, "user", "x", size, NOW, offset)
        for n, (size, offset) in enumerate(zip(tokens, offsets, strict=False), 1)
    ]


def test_counts_are_those_of_o200k() -> None:
    assert count_tokens("Hello Freya") == 3
    assert count_tokens("") == 0
    assert count_tokens("\ud83d") > 0


def test_a_short_history_is_sent_whole() -> None:
    messages = history(*[100] * 10)
    assert window(messages, whole=3000, budget=500, step=300) == messages


@given(st.lists(st.integers(1, 400), max_size=80), st.integers(0, 3000))
def test_a_window_fits_and_is_a_suffix(tokens: list[int], budget: int) -> None:
    messages = history(*tokens)
    kept = window(messages, whole=budget, budget=budget, step=max(int(budget * LEAVING), 1))
    assert sum(cost(m.n_tokens) for m in kept) <= budget
    assert kept == messages[len(messages) - len(kept) :]


@pytest.mark.parametrize("size", [10, 40, 96])
def test_many_messages_leave_at_once_so_the_prefix_stays(size: int) -> None:
    starts: list[int] = []
    room = 2600 // cost(size)
    for length in range(room * 2, room * 6):
        kept = window(history(*[size] * length), whole=2600, budget=2600, step=int(2600 * LEAVING))
        assert (1 - LEAVING) * room - 3 <= len(kept) <= room
        starts.append(kept[0].place)
    moves = [b - a for a, b in pairwise(starts) if a != b]
    assert all(abs(move - LEAVING * room) <= 2 for move in moves)
    assert len(moves) <= 4 / LEAVING + 1


@given(st.lists(st.integers(20, 40), min_size=120, max_size=160))
def test_a_window_begins_with_what_the_user_says(tokens: list[int]) -> None:
    for length in range(100, len(tokens)):
        assert window(history(*tokens[:length]), whole=900, budget=900, step=540)[0].place % 2 == 1


def test_where_one_exchange_is_larger_than_the_budget_it_is_cut_by_messages() -> None:
    kept = window(history(*[500] * 7), whole=600, budget=600, step=360)
    assert [m.place for m in kept] == [7]


def test_long_words_take_room_from_the_history() -> None:
    budget = Budget(total=6000)
    assert budget.history_room(spent=1000) == (2600, 3000)
    assert budget.history_room(spent=5000) == (1000, 1000)
    assert budget.history_room(spent=9000) == (0, 0)


def test_overhead_is_part_of_the_cost() -> None:
    assert cost(10) == 10 + MESSAGE_OVERHEAD
