"""How text becomes what is searched: accents and case gone, irregular forms at their base. The same for what was said
and for what is asked, so that "Did you go to the cafe?" meets "I went to the Café".
"""

import re
import unicodedata
from functools import cache
from importlib import resources

LONGEST = 100_000  # characters that are searched of one message: PostgreSQL's tsvector ends at 1 MB
WORD = re.compile(r"[^\W\d_]+")
# What Unicode does not take apart, and the apostrophe that PostgreSQL's parser takes for a letter's neighbour.
UNDIVIDED = str.maketrans({"ß": "ss", "ø": "o", "æ": "ae", "œ": "oe", "đ": "d", "ð": "d", "þ": "th", "ł": "l", "ı": "i",
                           "’": "'", "‘": "'", "\x00": " "})  # fmt: skip


def fold(text: str) -> str:
    """`text` as it is searched: lower case, no accents, irregular forms replaced by their base; at most LONGEST long.

    PostgreSQL's `english` configuration does the rest: it splits, drops stop words and cuts regular endings.
    """
    plain = text[:LONGEST].lower()
    if not plain.isascii():
        decomposed = unicodedata.normalize("NFKD", plain.encode("utf-8", "replace").decode().translate(UNDIVIDED))
        plain = "".join(character for character in decomposed if not unicodedata.combining(character))[:LONGEST]
    bases = _bases()
    return WORD.sub(lambda match: bases.get(match[0], match[0]), plain.replace("\x00", " "))


@cache
def _bases() -> dict[str, str]:
    """Irregular form -> base."""
    lines = resources.files("freya_gateway.db").joinpath("irregular.txt").read_text("utf-8").splitlines()
    entries = (line.split() for line in lines if line and not line.startswith("#"))
    return {form: base for base, *forms in entries for form in forms}
