"""A companion app's project as REST writes it: every place that messages, facts and topics stand in, awkward values."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from migration.fields import EPOCH
from tests.migration.everything import LONGEST_ID, SMILE, VALUES

Fields = dict[str, Any]
REJECTED = {"no_time": 2, "unknown_role": 1, "no_text": 1, "no_value": 1, "no_title": 1}  # documents
SKIPPED = {"user_without_facts": 1, "skip": 1}
ADDED = {"message": 15, "fact": 4, "topic": 2}  # rows


def text(value: str) -> Fields:
    return {"stringValue": value}


def at(second: int) -> Fields:
    return {"timestampValue": f"2024-05-06T07:08:{second:02}.123456Z"}


def said(words: str, second: int, role: str = "user", **fields: Fields) -> Fields:
    return {"role": text(role), "text": text(words), "timestamp": at(second), **fields}


def items(*values: Fields) -> Fields:
    return {"arrayValue": {"values": list(values)}}


def fields(**values: Fields) -> Fields:
    return {"mapValue": {"fields": values}}


def documents(project: str) -> dict[tuple[str, ...], Fields]:
    """By path."""
    odd = {name: value for name, value in VALUES.items() if name not in ("elsewhere", "text")}
    odd["reference"] = {"referenceValue": f"projects/{project}/databases/(default)/documents/users/ana"}
    listed = items(
        fields(role=text("user"), content=text("first of a list"), timestamp=at(20)),
        fields(role=text("model"), parts=items(fields(text=text("second of a list"))), timestamp=at(21)),
    )
    return {
        ("messages", "flat"): said("flat", 1),
        ("messages", "odd"): said("with every type beside it", 2, **odd),
        ("messages", SMILE): said(f"nul \0 and {SMILE}", 3, "assistant"),
        ("messages", LONGEST_ID): said("the longest id", 4),
        ("messages", "a%2Fb c?#.."): said("an escaped id", 5, "assistant"),
        ("messages", "large"): said("é" * 400_000, 6),
        ("messages", "pair"): {"user": text("asked"), "ai": text("answered"), "timestamp": at(7)},
        ("messages", "millis"): said("in milliseconds", 0, timestamp={"integerValue": "1714979289000"}),
        ("messages", "naive"): said("naive", 0, timestamp=text("2024-05-06T07:08:10")),
        ("messages", "never"): said("no time", 0, timestamp={"nullValue": None}),
        ("messages", "zero"): said("no time either", 0, timestamp={"integerValue": "0"}),
        ("messages", "narrated"): said("by nobody", 11, "narrator"),
        ("messages", "empty"): said("", 12),
        ("users", "Ana@Example.com", "messages", "1"): said("by e-mail", 13),
        ("users", "ana@example.COM", "messages", "2"): said("by the same", 14, "assistant"),
        ("users", "gone", "conversations", "gone", "messages", "1"): said("below what is missing", 15),
        ("conversations", "listed"): {"userId": text("ana"), "title": text("A list"), "messages": listed},
        ("users", "ana"): {
            "profile": fields(pets=text("Momo"), address=fields(city=text("Oslo"))),
            "updatedAt": at(19),
        },
        ("users", "nobody"): {"displayName": text("Nobody")},
        ("userFacts", "job"): {"type": text("job"), "value": text("cook"), "timestamp": at(16)},
        ("userFacts", "worth"): {"type": text("job"), "value": {"nullValue": None}},
        ("memories", "cello"): {"content": text("Plays the cello"), "confidence": {"doubleValue": 0.7}, "time": at(22)},
        ("topics", "t1"): {"name": text("Clay"), "userId": text("ana"), "lastUsed": at(17)},
        ("topics", "t2"): {"name": text("Clay"), "userId": text("bea"), "lastUsed": at(18)},
        ("topics", "t3"): {"userId": text("bea")},
        ("tokens", "secret"): {"token": text("x")},
    }


def import_export(path: Path, project: str) -> Path:
    """The documents as node-firestore-import-export writes them."""
    root: Fields = {"__collections__": {}}
    for names, values in documents(project).items():
        place = root
        for collection, identity in zip(names[::2], names[1::2], strict=True):
            below = place["__collections__"].setdefault(collection, {})
            place = below.setdefault(identity, {"__collections__": {}})
        place.update(_plain({"mapValue": {"fields": values}}, _datatype))
    path.write_text(json.dumps(root))
    return path


def backup_lines(path: Path, project: str) -> Path:
    """The documents as firestore-backup writes them, one a line."""
    meta = {"type": "meta", "dump_schema": 1, "project_id": project, "database": "(default)"}
    found = documents(project)
    lines: list[Any] = [meta]
    for names, values in found.items():
        data = _plain({"mapValue": {"fields": values}}, _fs_type)
        lines.append({"collection": names[-2], "id": names[-1], "path": "/".join(names), "data": data})
    lines.append({**meta, "final": True, "complete": True, "documents": len(found), "errors": 0})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _plain(value: Fields, timestamp: Callable[[str], Any]) -> Any:
    """JSON of a value; how dumps write other special ones than timestamps is tested with the dumps."""
    [(kind, inner)] = value.items()
    match kind:
        case "mapValue":
            special = {"bytesValue", "geoPointValue", "referenceValue"}
            kept = {key: item for key, item in inner["fields"].items() if not special & {*item}}
            return {key: _plain(item, timestamp) for key, item in kept.items()}
        case "arrayValue":
            return [_plain(item, timestamp) for item in inner["values"] if "bytesValue" not in item]
        case "integerValue":
            return int(inner)
        case "timestampValue":
            return timestamp(inner)
        case _:
            return inner


def _datatype(time: str) -> Any:
    moment = datetime.fromisoformat(time)
    seconds = int((moment.replace(microsecond=0) - EPOCH).total_seconds())
    return {"__datatype__": "timestamp", "value": {"_seconds": seconds, "_nanoseconds": moment.microsecond * 1000}}


def _fs_type(time: str) -> Any:
    return {"__fs_type__": "timestamp", "value": time}
