"""The documents against the code: error codes, settings, and links that lead somewhere."""

import ast
import re
from pathlib import Path

import pytest

from freya_gateway import errors
from freya_gateway.api.errors import EXAMPLES, PLAIN
from freya_gateway.errors import FreyaError
from freya_gateway.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
REFUSALS = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, FreyaError)
}
CODE_ROW = re.compile(r"^\| (\d{3}) \| `([a-z_]+)` \|", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def raised() -> set[tuple[int, str]]:
    """(status, code) of every refusal in the source."""
    found = {(status, code) for status, (code, _) in PLAIN.items()}
    for file in (ROOT / "freya_gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in REFUSALS:
                code = node.args[0] if node.args else None
                if isinstance(code, ast.Constant):
                    found.add((int(REFUSALS[node.func.id].status), str(code.value)))
    return found


def test_error_table_is_complete() -> None:
    documented = {(int(status), code) for status, code in CODE_ROW.findall((ROOT / "docs/api.md").read_text("utf-8"))}
    assert documented == raised()


def test_examples_of_refusals_are_real_ones() -> None:
    assert {(status, code) for status, (code, _) in EXAMPLES.items()} <= raised()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document_names_only_settings_that_exist(document: Path) -> None:
    known = {field.alias for field in Settings.model_fields.values()} | {
        "FREYA_TEST_DATABASE_URL",  # tests/conftest.py
        "FREYA_TOKEN",  # `freya chat`
        "FREYA_URL",
    }
    assert set(re.findall(r"\bFREYA_[A-Z_]+\b", document.read_text("utf-8"))) <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text("utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []
