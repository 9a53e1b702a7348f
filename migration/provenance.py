"""Where a row comes from, kept with it for ever: origin, path, pointer, and every field exactly as it was."""

import base64
import json
from collections.abc import Sequence
from typing import Any

from migration.documents import Value
from migration.mapping import Piece
from migration.values import encode


def provenance(origin: str, path: Sequence[str], piece: Piece, **marks: bool) -> dict[str, Any]:
    """The `source` of a row. The fields are in the encoding of `values`, as Base64: jsonb would lose some of them."""
    place = {"origin": origin, "path": "/".join(path)} | ({"pointer": piece.pointer} if piece.pointer else {})
    return _storable({"imported": place | {"fields": encoded(piece.fields)} | marks})


def encoded(value: Value) -> str:
    return base64.b64encode(encode(value)).decode()


def _storable(source: dict[str, Any]) -> dict[str, Any]:
    """Without what jsonb refuses, which only a path or a pointer could hold; the exact one is in staging."""
    plain = json.dumps(source)
    if "\\u0000" not in plain and "\\ud" not in plain:
        return source
    mended = {
        name: value.encode("utf-8", "replace").decode().replace("\x00", "\ufffd") if isinstance(value, str) else value
        for name, value in source["imported"].items()
    }
    return {"imported": mended}
