"""A dump file as its format's reader gets it, and what it reports about it."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from migration.documents import Document, SourceError
from migration.sources.files import Losses
from migration.sources.json_events import DAMAGED_ADVICE, Events
from migration.sources.json_values import Decoding


@dataclass(frozen=True, slots=True)
class Dump:
    """`template`: where the documents of a format without paths belong. `exact`: parse slowly, keep lone surrogates."""

    path: Path
    decoding: Decoding
    template: str | None = None
    exact: bool = False

    @contextmanager
    def events(self) -> Generator[Events]:
        with self.path.open("rb") as file:
            events = Events(file, self.path, exact=self.exact)
            try:
                yield events
            except SourceError as error:
                if error.place:
                    raise
                # A value's decoder does not know where it stands.
                raise events.error(str(error)) from error

    def noting(self, losses: Losses) -> "Dump":
        return replace(self, decoding=replace(self.decoding, losses=losses))


def damaged(message: str, place: str) -> SourceError:
    return SourceError(message, place=place, advice=DAMAGED_ADVICE)


@contextmanager
def at(place: str) -> Generator[None]:
    """Says where, for what is found inside."""
    try:
        yield
    except SourceError as error:
        raise error if error.place else damaged(str(error), place) from error


Documents = Iterator[Document]
