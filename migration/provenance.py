"""Where a row comes from, kept with it for ever: origin, path, and every field exactly as it was."""

import base64
import json
from typing import Any

from migration.documents import Document
from migration.values import encode


def provenance(origin: str, document: Document, **marks: bool) -> dict[str, Any]:
    """The `source` of a row. The fields are in the encoding of `values`, as Base64: jsonb would lose some of them."""
    fields = base64.b64encode(encode(document.fields)).decode()
    return _storable({"imported": {"origin": origin, "path": "/".join(document.path), "fields": fields} | marks})


def _storable(source: dict[str, Any]) -> dict[str, Any]:
    """Without what jsonb refuses, which only a path could hold; the exact one is in staging."""
    plain = json.dumps(source)
    if "\\u0000" not in plain and "\\ud" not in plain:
        return source
    path = source["imported"]["path"].encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
    return {"imported": source["imported"] | {"path": path}}
