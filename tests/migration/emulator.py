"""Google's own Firestore emulator, one for the session: seeded over REST, and asked for real managed exports.

Debian's `google-cloud-cli-firestore-emulator` brings it; FREYA_FIRESTORE_EMULATOR_JAR names another jar. Where there is
none, tests that need it are skipped and say so; in CI they fail.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

JARS = (
    Path("/usr/lib/google-cloud-sdk/platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"),
    *sorted(Path("~/.cache/firebase/emulators").expanduser().glob("cloud-firestore-emulator-*.jar"), reverse=True),
)
MAIN = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
STARTS_WITHIN = 60.0
WRITES = 400
HEADERS = {"Authorization": "Bearer owner", "Content-Type": "application/json"}

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Emulator:
    """`host`: host:port, as FIRESTORE_EMULATOR_HOST has it."""

    host: str

    def seed(self, project: str, documents: Mapping[tuple[str, ...], Fields]) -> None:
        """Documents by path, their fields as the REST API writes them."""
        root = f"projects/{project}/databases/(default)/documents"
        writes = [{"update": {"name": "/".join((root, *path)), "fields": fields}} for path, fields in documents.items()]
        for start in range(0, len(writes), WRITES):
            self._call("POST", f"/v1/{root}:commit", {"writes": writes[start : start + WRITES]})

    def export(self, project: str, folder: Path) -> Path:
        """A managed export below the folder, as gcloud would make it."""
        body = {
            "database": f"projects/{project}/databases/(default)",
            "export_directory": str(folder),
            "export_name": "export",
        }
        self._call("POST", f"/emulator/v1/projects/{project}:export", body)
        return folder / "export"

    def listed(self, project: str, *collection: str) -> dict[str, Any]:
        """What the REST API lists, e.g. as a person would save it."""
        path = "/".join(urllib.parse.quote(segment, safe="") for segment in collection)
        return self._call("GET", f"/v1/projects/{project}/databases/(default)/documents/{path}?pageSize=1000")

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.host}{path}", data, HEADERS, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode(errors="replace")[:1000]) from error


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    java, port = shutil.which("java"), free_port()
    log = tmp_path_factory.mktemp("emulator") / "log"
    command = [java or _absent("no java"), "-cp", str(_jar()), MAIN, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            _await(process, port, log)
            yield Emulator(f"127.0.0.1:{port}")
        finally:
            process.kill()


def _jar() -> Path:
    given = os.environ.get("FREYA_FIRESTORE_EMULATOR_JAR")
    found = [Path(given)] if given else [jar for jar in JARS if jar.is_file()]
    return found[0] if found else _absent("no Firestore emulator (Debian: google-cloud-cli-firestore-emulator)")


def _absent(what: str) -> Any:
    if os.environ.get("CI"):
        pytest.fail(f"{what}: CI must have it")
    pytest.skip(f"{what}: the live source and real exports are NOT tested here")


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.1)
    pytest.fail(f"the emulator did not start:\n{log.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
