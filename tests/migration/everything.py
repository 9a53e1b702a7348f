"""Every type of value and every awkward path that Firestore has, as REST writes it."""

from typing import Any

SMILE = "\N{GRINNING FACE}"
LONGEST_ID = "é" * 750  # 1,500 bytes

VALUES: dict[str, Any] = {
    "null": {"nullValue": None},
    "true": {"booleanValue": True},
    "false": {"booleanValue": False},
    "five": {"integerValue": "5"},
    "largest": {"integerValue": str(2**63 - 1)},
    "smallest": {"integerValue": str(-(2**63))},
    "integral double": {"doubleValue": 1.0},
    "negative zero": {"doubleValue": -0.0},
    "nan": {"doubleValue": "NaN"},
    "infinity": {"doubleValue": "-Infinity"},
    "tiny": {"doubleValue": 5e-324},
    "text": {"stringValue": f"hé {SMILE}"},
    "empty": {"stringValue": ""},
    "nul": {"stringValue": "a\0b"},
    "long": {"stringValue": "x" * 2_000},
    "bytes": {"bytesValue": "AP8="},
    "no bytes": {"bytesValue": ""},
    "long bytes": {"bytesValue": "AAAA" * 700},
    "time": {"timestampValue": "2026-01-02T03:04:05.123456Z"},
    "before the epoch": {"timestampValue": "1901-02-03T04:05:06.000001Z"},
    "first": {"timestampValue": "0001-01-01T00:00:00Z"},
    "last": {"timestampValue": "9999-12-31T23:59:59.999999Z"},
    "point": {"geoPointValue": {"latitude": 1.5, "longitude": -2.5}},
    "origin": {"geoPointValue": {"latitude": 0, "longitude": 0}},
    "reference": {"referenceValue": f"projects/PROJECT/databases/(default)/documents/users/{SMILE}/messages/1"},
    "elsewhere": {"referenceValue": "projects/another/databases/other/documents/users/u"},
    "vector": {
        "mapValue": {
            "fields": {
                "__type__": {"stringValue": "__vector__"},
                "value": {"arrayValue": {"values": [{"doubleValue": 1.0}, {"doubleValue": -2.5}]}},
            }
        }
    },
    "no items": {"arrayValue": {"values": []}},
    "one item": {"arrayValue": {"values": [{"integerValue": "1"}]}},
    "no entries": {"mapValue": {"fields": {}}},
    "items": {
        "arrayValue": {
            "values": [
                {"integerValue": "1"},
                {"stringValue": "a"},
                {"nullValue": None},
                {"doubleValue": 2.5},
                {"bytesValue": "eg=="},
                {"timestampValue": "2026-01-01T00:00:00Z"},
                {"geoPointValue": {"latitude": 1, "longitude": 2}},
                {"mapValue": {"fields": {"x": {"arrayValue": {"values": [{"booleanValue": True}]}}}}},
                {"mapValue": {"fields": {}}},
            ]
        }
    },
    "map": {
        "mapValue": {
            "fields": {
                "deep": {"mapValue": {"fields": {"deeper": {"timestampValue": "2026-01-01T00:00:00Z"}}}},
                "list": {"arrayValue": {"values": []}},
                "null": {"nullValue": None},
                "seconds": {"integerValue": "5"},
            }
        }
    },
    "look-alike": {"mapValue": {"fields": {"seconds": {"integerValue": "5"}}}},
    "odd.name`\\": {"integerValue": "1"},
    SMILE: {"integerValue": "2"},
}


def dumpable(project: str) -> dict[tuple[str, ...], Any]:
    """Without what makes a recorded dump long, or the Python client stop: a reference into another project."""
    found = {path: dict(fields) for path, fields in documents(project).items() if path[0] != "large"}
    del found["every", "value"]["elsewhere"]
    return found


def documents(project: str) -> dict[tuple[str, ...], Any]:
    """By path. Three missing parents stand above the deepest one."""
    values = {
        **VALUES,
        "reference": {"referenceValue": VALUES["reference"]["referenceValue"].replace("PROJECT", project)},
    }
    one = {"n": {"integerValue": "1"}}
    return {
        ("every", "value"): values,
        ("every", "nothing"): {},
        ("every", SMILE): one,
        ("every", LONGEST_ID): one,
        ("every", "a%2Fb c?#.."): one,
        ("every", "value", "below", "1"): one,
        ("gone", "1", "gone", "2", "gone", "3", "here", "4"): one,
        ("large", "1"): {"text": {"stringValue": "é" * 500_000}},
        ("large", "2"): {"text": {"stringValue": "y" * 1_000_000}},
    }
