"""How texts are compared in the memory: what counts as the same statement, as a quote, and as forgotten."""

import hashlib
import re
import unicodedata
from uuid import UUID

from freya_gateway.db.folding import fold

DIGEST_SIZE = 16
TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "..."})
SHORT = {"n't": " not", "'re": " are", "'ve": " have", "'ll": " will", "'m": " am"}
SHORTENED = re.compile("|".join(map(re.escape, SHORT)))
WORD = re.compile(r"\w+(?:'\w+)?")
LEADING = re.compile(r"^(?:the|a|an|my|our)\s+")


def plain(text: str) -> str:
    """`text` without the differences that typing makes: case, kinds of quotes and dashes, white space."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(TYPOGRAPHY).casefold().split())


def same_words(text: str) -> str:
    """What two texts share that say the same in the same words: no punctuation either."""
    return " ".join(WORD.findall(SHORTENED.sub(lambda match: SHORT[match[0]], plain(text))))


def same_value(value: str) -> str:
    """What two values share that mean the same thing: "the Acme Corp." and "acme corp"."""
    return LEADING.sub("", " ".join(WORD.findall(fold(value))))


def find_quote(quote: str, text: str) -> tuple[int, int] | None:
    """Where the quote stands in `plain(text)`: whole words, whatever quotation marks it was put in; None if nowhere."""
    wanted = plain(quote).strip("\"'. ")
    if not any(character.isalnum() for character in wanted):
        return None
    match = re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", plain(text))
    return match.span() if match else None


def statement_hash(statement: str) -> bytes:
    """The same for statements in the same words."""
    return _digest(same_words(statement), b"")


def digests(key: UUID, *, statement: str, subject: str, slot: str, value: str | None) -> tuple[bytes, ...]:
    """What a forgotten fact is known by: its words, and what it says of whom. Keyed, so that they cannot be guessed."""
    found = [_digest(f"statement\0{same_words(statement)}", key.bytes)]
    if value:
        found.append(_digest(f"value\0{same_value(subject)}\0{slot}\0{same_value(value)}", key.bytes))
    return tuple(found)


def _digest(text: str, key: bytes) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=DIGEST_SIZE, key=key).digest()
