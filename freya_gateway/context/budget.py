"""How much of what a prompt may hold, counted in exact o200k tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from freya_gateway.db.prompt import Said

MESSAGE_OVERHEAD = 4  # role and separators around each message, as the chat format bills them
BLOCK = 8  # messages leave the window in blocks, so that the prompt's prefix stays the same between turns


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
    """The messages (oldest first) to send: all if they fit in `whole`, else those left when enough blocks of BLOCK
    have gone to fit in `budget`. Where blocks begin depends on the messages' places only, not on what came since."""
    if sum(cost(m.n_tokens) for m in messages) <= whole:
        return list(messages)
    kept: list[Said] = []
    blocks: dict[int, list[Said]] = {}
    for message in messages:
        blocks.setdefault(message.place // BLOCK, []).append(message)
    for _, block in sorted(blocks.items(), reverse=True):
        budget -= sum(cost(m.n_tokens) for m in block)
        if budget < 0:
            return kept or _newest(block, budget + sum(cost(m.n_tokens) for m in block))
        kept = block + kept
    return kept


def _newest(block: Sequence[Said], budget: int) -> list[Said]:
    kept: list[Said] = []
    for message in reversed(block):
        budget -= cost(message.n_tokens)
        if budget < 0:
            break
        kept.insert(0, message)
    return kept
