"""How much of what a prompt may hold, counted in exact o200k tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from freya_gateway.db.prompt import Said

MESSAGE_OVERHEAD = 4  # role and separators around each message, as the chat format bills them
LEAST = 0.4  # of the history's budget: what stays of it when its oldest messages leave


@dataclass(frozen=True, slots=True)
class Budget:
    """Input tokens of a model call, and of its parts. `reserve` is kept for the user's words."""

    total: int = 6000
    facts: int = 800
    history: int = 2600
    small_history: int = 3000  # a history this short is sent whole, and nothing is searched for
    recalled: int = 1000
    recalled_outright: int = 2000  # when the user asks what is remembered

    def history_room(self, *, spent: int) -> tuple[int, int]:
        """(for a window, for a whole history) when `spent` tokens of the total are used by other blocks."""
        room = max(self.total - spent, 0)
        return min(self.history, room), min(self.small_history, room)


def cost(n_tokens: int) -> int:
    return n_tokens + MESSAGE_OVERHEAD


def window(messages: Sequence[Said], *, whole: int, budget: int) -> list[Said]:
    """The messages (oldest first) to send: all if they fit in `whole`, else the last ones that fit in `budget`.

    Where the window begins stays the same for as long as it can: of all beginnings that leave it between LEAST and all
    of the budget, the exchange with the roundest number (the most often divisible by two). So the prompt's prefix stays
    for many turns, and then a good part of the window leaves at once. It depends on places and sizes only: no state.
    """
    rest = sum(cost(m.n_tokens) for m in messages)
    if rest <= whole:
        return list(messages)
    begin, best = len(messages), -1
    for place, message in enumerate(messages):
        if begin < len(messages) and rest < LEAST * budget:
            break
        starts = place == 0 or _exchange(messages[place - 1]) != _exchange(message)
        if rest <= budget and (begin == len(messages) or (starts and _roundness(message) > best)):
            begin, best = place, _roundness(message) if starts else -1
        rest -= cost(message.n_tokens)
    return list(messages[begin:])


def _exchange(message: Said) -> int:
    """The number of the exchange: what the user says and its reply."""
    return (message.place + 1) // 2


def _roundness(message: Said) -> int:
    number = _exchange(message)
    return (number & -number).bit_length()
