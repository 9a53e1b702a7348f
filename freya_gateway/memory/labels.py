"""What a model may write upon a topic: plain words about what was said. Markup, addresses and anything that reads like
an order to whoever reads it later is taken out, and no text is longer than it should be.
"""

import re
import unicodedata
from collections.abc import Iterable

LONGEST_TITLE = 80  # characters
LONGEST_KEYWORD = 40
MOST_KEYWORDS = 8
LONGEST_SUMMARY = 80  # words
LONGEST_WORD = 60  # characters; what is longer is no word

LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
ADDRESS = re.compile(r"(?i)\b(?:[a-z][a-z0-9+.-]*://|www\.|mailto:|javascript:|data:)\S*")
TAG = re.compile(r"<[^<>]*>")
MARKS = re.compile(r"[<>{}\[\]|`*_#~^\\=]+|-{2,}|:{2,}")
SENTENCE = re.compile(r"(?<=[.!?;])\s+")
ORDER = re.compile(
    r"(?i)\b(?:ignore|disregard|forget|override|bypass|overwrite|skip)\b.{0,60}"
    r"\b(?:instruct\w*|prompts?|rules?|guidelines?|above|previous|prior|earlier|everything|persona|memor(?:y|ies))\b"
    r"|\b(?:system|developer|hidden|initial)[ -]?(?:prompts?|messages?|instructions?|mode)\b"
    r"|\byou (?:are now|must|should|shall|will|have to|need to|can now|may now)\b"
    r"|\b(?:from now on|pretend (?:to|that)|act as|jailbreak|respond (?:only|with)|reply (?:only|with)|answer only)\b"
    r"|\b(?:reveal|print|output|repeat|leak|send)\b.{0,40}\b(?:prompts?|instructions?|passwords?|secrets?|keys?)\b"
    r"|(?:^|: ?)(?:always|never|please|remember|make sure|ensure|do not|don't|note to|new instructions?)\b"
    r"|\b(?:attention|important|note)\s*[:!]"
    r"|^(?:system|assistant|user|human|ai|freya)\s*:"
)


def title(text: str) -> str:
    """A title in one line; '' if nothing acceptable is left of it."""
    return _cut(_statements(text).strip(" .,;:-'\""), LONGEST_TITLE)


def keywords(texts: Iterable[str]) -> tuple[str, ...]:
    """Each keyword once, the first MOST_KEYWORDS."""
    found = (_statements(text).strip(" .,;:-'\"") for text in texts)
    kept = {word.casefold(): word for word in found if 0 < len(word) <= LONGEST_KEYWORD}
    return tuple(kept.values())[:MOST_KEYWORDS]


def summary(text: str) -> str:
    """At most LONGEST_SUMMARY words, whole sentences where that leaves any."""
    kept: list[str] = []
    for sentence in SENTENCE.split(_statements(text)):
        words = sentence.split()
        if len(kept) + len(words) > LONGEST_SUMMARY:
            return " ".join(kept or words[:LONGEST_SUMMARY])
        kept += words
    return " ".join(kept)


def _statements(text: str) -> str:
    """The sentences of `text`, as plain words, that tell nobody what to do."""
    sentences = SENTENCE.split(_plain(text))
    return " ".join(sentence for sentence in sentences if not ORDER.search(sentence))


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text)
    text = ADDRESS.sub(" ", LINK.sub(r"\1", text))
    text = MARKS.sub(" ", TAG.sub(" ", text))
    visible = "".join(c if unicodedata.category(c)[0] not in "CZ" else " " * (c != "\u200b") for c in text)
    return " ".join(word for word in visible.split() if len(word) <= LONGEST_WORD)


def _cut(text: str, length: int) -> str:
    """At most `length` characters, whole words."""
    return text if len(text) <= length else text[: length + 1].rpartition(" ")[0]
