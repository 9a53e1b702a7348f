"""Secrets in what a user says: they are masked before any call that learns, and no fact holds one."""

import re

MASK = "[secret]"

NAMED = re.compile(
    r"(?i)\b((?:pass(?:word|code|phrase|wd)|pin(?: code| number)?|cvv|cvc|api[ _-]?key|secret(?:[ _-]?key)?|"
    r"access[ _-]?(?:key|token|code)|auth[ _-]?token|token|recovery (?:code|phrase)|seed phrase|ssn|"
    r"social security number)\b(?:\s+(?:for|to|of|at|on)\s+[^:=\n]{1,40}?)?\s*(?:is|was|are|:|=|->)\s*)"
    r"(?!(?:not|the|a|an|my|in|on|at|too|so|very|stored|safe|lost|wrong|long|short|forgotten)\b)"
    r"(\"[^\"\n]+\"|'[^'\n]+'|\S+)"
)
# What gives itself away by its form.
KNOWN = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|\b(?:sk|pk|rk)[-_](?:live[-_]|test[-_]|proj[-_]|ant[-_])?[\w-]{16,}"
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AKIA|ASIA|AIza|npm_|pypi-)[\w-]{12,}"
    r"|\b(?=[0-9a-fA-F]*\d)(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{32,}\b"
    r"|(?i:\b(?:bearer|basic)\s+[\w.~+/-]{16,}=*)"
    r"|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)",
    re.DOTALL,
)
CARD = re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")


def mask(text: str) -> str:
    """`text` with every secret in it replaced by MASK."""
    text = KNOWN.sub(MASK, text)
    text = NAMED.sub(lambda match: match[1] + MASK, text)
    text = CARD.sub(lambda match: MASK if _luhn(match[0]) else match[0], text)
    return IBAN.sub(lambda match: MASK if _iban(match[0]) else match[0], text)


def holds_secret(text: str) -> bool:
    return MASK in text or mask(text) != text


def _luhn(number: str) -> bool:
    digits = [int(character) for character in number if character.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def _iban(number: str) -> bool:
    compact = number.replace(" ", "")
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1
