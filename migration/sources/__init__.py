"""Opens what a person named: a live Firestore, a managed export's folder, or a JSON dump, told apart by content."""

import importlib
from pathlib import Path
from typing import Any

from migration.documents import Source, SourceError

SCHEME = "firestore://"
EXTRA = "Install the extra: pip install 'freya-gateway[migrate]'."


def open_source(
    spec: str,
    *,
    project: str | None = None,
    database: str | None = None,
    path_template: str | None = None,
    emulator: str | None = None,
) -> Source:
    """`project` and `database` are what a dump may not say; `emulator` is `host:port` instead of Google's."""
    if spec.startswith(SCHEME):
        return _part("live").open_live(spec.removeprefix(SCHEME), emulator=emulator)
    path = Path(spec)
    if not path.exists():
        raise SourceError("there is no such file or folder", place=spec)
    if path.is_dir():
        return _part("managed_export").open_export(path, project=project, database=database)
    if path.name.endswith("_metadata"):
        return _part("managed_export").open_export(path.parent, project=project, database=database)
    return _part("dumps").open_dump(path, project=project, database=database, path_template=path_template)


def _part(name: str) -> Any:
    """Each kind needs libraries of the extra that the others do not."""
    try:
        return importlib.import_module(f"migration.sources.{name}")
    except ModuleNotFoundError as error:
        raise SourceError(f"{error.name} is not installed", advice=EXTRA) from error
