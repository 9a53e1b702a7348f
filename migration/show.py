"""Tables for a person, and the files of `--report`: report.json, report.md, rejects.ndjson, inferred.ndjson.

Never the users' words: paths, codes and counts.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from migration.inspection import Inspection
from migration.pipeline import Report, Sum

MOST_FAULTS = 50  # lines on the screen; all are in the report


def show(report: Report) -> None:
    """The closing table."""
    console = Console(highlight=False)
    show_sums(report.sums)
    for fault in report.faults[:MOST_FAULTS]:
        console.print(Text(f"{fault.code}: {fault.row}", "bold red"), soft_wrap=True)
    if len(report.faults) > MOST_FAULTS:
        console.print(Text(f"... and {len(report.faults) - MOST_FAULTS} more faults", "bold red"))
    for row in report.kept:
        console.print(Text(f"kept as edited in Freya, though its source changed: {row}", "yellow"), soft_wrap=True)
    for loss in report.losses:
        many = f"{loss.count} " if loss.count else ""
        text = Text(f"lost before, in the source: {many}{loss.code} ({loss.detail})", "yellow")
        console.print(text, soft_wrap=True)
    if report.inferred:
        console.print(
            f"{report.inferred} messages without a role take turns, marked `role_inferred`: "
            "look them through with `freya-migrate inferred`",
            soft_wrap=True,
        )
    source = report.source
    console.print(f"source: {source.added} documents added, {source.changed} changed, {source.deleted} deleted")
    rows = "; ".join(f"{verb} {_counts(counts)}" for verb, counts in _rows(report) if counts)
    console.print(f"{report.documents} documents; rows: {rows or 'nothing to do'}; {len(report.faults)} faults")


def show_sums(sums: Iterable[Sum]) -> None:
    table = Table("collection", "outcome", "why", "documents")
    for item in sums:
        table.add_row(item.collection, item.outcome, item.code, str(item.count))
    Console(highlight=False).print(table)


def show_inspection(found: Inspection) -> None:
    console = Console(highlight=False)
    table = Table("collection", "documents", "read as", "would become")
    for name, collection in found.collections.items():
        outcomes = "\n".join(f"{count} {outcome}" for outcome, count in collection.outcomes.most_common())
        like = f", looks like {collection.looks_like}" if collection.looks_like else ""
        rule = collection.rule or Text(f"unknown{like}: the run would stop", "bold red")
        table.add_row(name, str(collection.documents), rule, outcomes)
    console.print(table)
    fields = Table("collection", "field", "types")
    for name, collection in found.collections.items():
        for field, types in sorted(collection.fields.items()):
            fields.add_row(name, field, ", ".join(f"{kind} {count}" for kind, count in types.most_common()))
    console.print(fields)
    for name, collection in found.collections.items():
        if collection.rule:
            continue
        kind, path = collection.looks_like or "skip", name.replace("/", "/*/") + "/*"
        console.print(f'a mapping file may say of it: [[collections]] paths = ["{path}"] kind = "{kind}"', markup=False)
    for loss in found.losses:
        console.print(Text(f"lost before, in the source: {loss.code} ({loss.detail})", "yellow"), soft_wrap=True)
    count = "" if found.expected is None else f" of {found.expected} that it counts"
    reads = f"; reading it once bills {found.documents} reads" if found.kind == "firestore" else ""
    console.print(f"{found.origin}, {found.kind}: {found.documents} documents{count}{reads}")


Entries = Iterable[Mapping[str, str]]


def write(folder: Path, report: Report, rejects: Entries, inferred: Entries) -> None:
    """The report's files, in a folder that is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = asdict(report) | {"exit_code": report.exit_code}
    (folder / "report.json").write_text(json.dumps(plain, indent=2) + "\n", "utf-8")
    (folder / "report.md").write_text(_markdown(report), "utf-8")
    for name, entries in (("rejects", rejects), ("inferred", inferred)):
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        (folder / f"{name}.ndjson").write_text(lines, "utf-8")


def _markdown(report: Report) -> str:
    sums = [(item.collection, item.outcome, item.code, item.count) for item in report.sums]
    checks = [(item.table, item.user, item.rows, item.staged, item.target) for item in report.checksums]
    rows = [(verb, kind, count) for verb, counts in _rows(report) for kind, count in sorted(counts.items())]
    source = report.source
    parts = [
        f"# Migration of {report.origin}",
        f"Exit code {report.exit_code}; {report.documents} documents, {len(report.faults)} faults, "
        f"{report.rejects} rejected documents, {report.inferred} inferred roles.",
        f"Since the reading before: {source.added} added, {source.changed} changed, {source.deleted} deleted.",
        "## Documents\n" + _table(("collection", "outcome", "why", "documents"), sums),
        "## Rows\n" + _table(("what", "kind", "rows"), rows),
        "## Checksums\n" + _table(("table", "user", "rows", "staged", "read back"), checks),
        "## Faults\n" + _table(("fault", "row"), [(fault.code, fault.row) for fault in report.faults]),
        "## Kept as edited in Freya\n" + _table(("row",), [(row,) for row in report.kept]),
        "## Lost before, in the source's format\n"
        + _table(("what", "detail", "count"), [(loss.code, loss.detail, loss.count) for loss in report.losses]),
    ]
    return "\n\n".join(parts) + "\n"


def _table(names: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [names, ("---",) * len(names), *rows]
    if len(lines) == len(("names", "rule")):
        return "none"
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _rows(report: Report) -> tuple[tuple[str, dict[str, int]], ...]:
    return ("added", report.added), ("changed", report.changed), ("removed", report.removed)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in sorted(counts.items()))
