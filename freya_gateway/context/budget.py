"""How much of what a prompt may hold, counted in exact o200k tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from freya_gateway.db.prompt import Said

MESSAGE_OVERHEAD = 4  # role and separators around each message, as the chat format bills them
LEAVING = 0.6  # of the history's budget: so much of it leaves at once


@dataclass(frozen=True, slots=True)
class Budget:
    """Input tokens of a model call, and of its parts. `reserve` is kept for the user's words."""

    total: int = 6000
    facts: int = 800
    history: int = 2600
    small_history: int = 3000  # a history this short is sent whole, and nothing is searched for
    recalled: int = 1000
    recalled_in_passing: int = 150  # when the user asks nothing
    recalled_outright: int = 2000  # when the user asks what is remembered

    @property
    def step(self) -> int:
        """Tokens of the history that leave at once."""
        return max(int(LEAVING * self.history), 1)

    def history_room(self, *, spent: int) -> tuple[int, int]:
        """(for a window, for a whole history) when `spent` tokens of the total are used by other blocks."""
        room = max(self.total - spent, 0)
        return min(self.history, room), min(self.small_history, room)


def cost(n_tokens: int) -> int:
    return n_tokens + MESSAGE_OVERHEAD


def window(messages: Sequence[Said], *, whole: int, budget: int, step: int) -> list[Said]:
    """The messages (oldest first) to send: all if they fit in `whole`, else the last ones that fit in `budget`.

    The window begins where the history passes a multiple of `step` tokens: so the prompt's prefix stays for many turns,
    and then `step` tokens leave at once. No state is kept: the messages' offsets decide.
    """
    rest = sum(cost(m.n_tokens) for m in messages)
    if rest <= whole:
        return list(messages)
    fitting, passed = len(messages), messages[0].offset // step
    for place, message in enumerate(messages):
        if rest <= budget:
            fitting = min(fitting, place)
            if message.offset // step > passed and _begins(messages, place):
                return list(messages[place:])
        elif _begins(messages, place):
            passed = message.offset // step
        rest -= cost(message.n_tokens)
    return list(messages[fitting:])


def _begins(messages: Sequence[Said], place: int) -> bool:
    """Whether an exchange begins there: what the user says, and its reply."""
    return place == 0 or (messages[place - 1].place + 1) // 2 != (messages[place].place + 1) // 2
