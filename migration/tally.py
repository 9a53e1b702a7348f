"""What a run did to the target."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Rows by kind (message, fact, topic); `kept`: rows that the app has edited, so that the source's change waits."""

    added: Counter[str] = field(default_factory=Counter[str])
    changed: Counter[str] = field(default_factory=Counter[str])
    removed: Counter[str] = field(default_factory=Counter[str])
    kept: list[str] = field(default_factory=list[str])

    def keep(self, kind: str, identity: object) -> None:
        self.kept.append(f"{kind} {identity}")
