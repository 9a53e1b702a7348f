"""The files for browsers: how they are announced, cached and shared, and who gets the cockpit."""

import gzip
import json
import re
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from freya_gateway import __version__
from freya_gateway.api.web import COCKPIT, PAGE_POLICY
from freya_gateway.web import FOLDER
from tests.browser import node, npm
from tests.gateway import Running, running, settings_for
from tests.model_server import ModelServer

MOST_GZIPPED_BYTES = 8 * 1024
ALLOWED = "https://freya.example"


@pytest.fixture
async def guarded(database_url: str, clean: None, model: ModelServer) -> AsyncIterator[Running]:
    """A gateway that one origin may call, and without a cockpit."""
    settings = settings_for(database_url, model.base_url, allowed_origins=(ALLOWED,), cockpit=False)
    async with running(settings) as one:
        yield one


async def get(freya: Running, path: str, **headers: str) -> tuple[aiohttp.ClientResponse, bytes]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with freya.http.get(freya.url + path, headers=names, allow_redirects=False) as response:
        return response, await response.read()


def test_client_is_small() -> None:
    assert len(gzip.compress((FOLDER / "freya.js").read_bytes(), 9)) < MOST_GZIPPED_BYTES


@pytest.mark.parametrize(
    ("path", "type"),
    [
        ("/freya.js", "text/javascript; charset=utf-8"),
        ("/freya.mjs", "text/javascript; charset=utf-8"),
        ("/use-freya.js", "text/javascript; charset=utf-8"),
        ("/freya.d.ts", "text/plain; charset=utf-8"),
    ],
)
async def test_any_page_may_load_the_client(guarded: Running, path: str, type: str) -> None:
    response, body = await get(guarded, path, origin="https://elsewhere.example")
    assert (response.status, body) == (200, (FOLDER / path.lstrip("/")).read_bytes())
    assert response.headers["content-type"] == type
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["cross-origin-resource-policy"] == "cross-origin"
    assert "max-age=300" in response.headers["cache-control"]


async def test_a_page_that_may_call_is_named_to_caches(guarded: Running) -> None:
    response, _ = await get(guarded, "/freya.js", origin=ALLOWED)
    assert response.headers.getall("access-control-allow-origin") == [ALLOWED]
    assert response.headers["vary"] == "Origin"


async def test_loading_the_client_allows_no_call(guarded: Running) -> None:
    response, _ = await get(guarded, "/v1/messages", origin="https://elsewhere.example")
    assert "access-control-allow-origin" not in response.headers


async def test_unchanged_client_is_not_sent_again(freya: Running) -> None:
    response, _ = await get(freya, "/freya.js")
    again, body = await get(freya, "/freya.js", if_none_match=response.headers["etag"])
    assert (again.status, body, again.headers["etag"]) == (304, b"", response.headers["etag"])
    changed, body = await get(freya, "/freya.js", if_none_match='"another"')
    assert changed.status == 200
    assert body


async def test_versioned_client_is_kept_for_ever(freya: Running) -> None:
    response, body = await get(freya, "/freya.js")
    versioned, same = await get(freya, response.headers["content-location"])
    assert (versioned.status, same) == (200, body)
    assert versioned.headers["cache-control"] == "public, max-age=31536000, immutable"


async def test_an_older_version_leads_to_the_present_one(freya: Running) -> None:
    response, _ = await get(freya, "/freya.0123456789abcdef.js")
    assert (response.status, response.headers["location"]) == (302, "/freya.js")
    assert response.headers["cache-control"] == "no-store"


async def test_the_cockpit_is_served_under_a_strict_policy(freya: Running) -> None:
    names = [path.name for path in COCKPIT.glob("*.*")] if COCKPIT.exists() else []
    if not names:
        pytest.skip("there is no cockpit page in this tree")
    for path in ("/", *(f"/cockpit/{name}" for name in names)):
        response, _ = await get(freya, path)
        assert response.status == 200, path
        assert response.headers["content-security-policy"] == PAGE_POLICY
        assert response.headers["cache-control"] == "no-cache"
    assert "unsafe" not in PAGE_POLICY


async def test_the_cockpit_is_not_served_where_it_is_off(guarded: Running) -> None:
    for path in ("/", "/cockpit/index.html"):
        response, _ = await get(guarded, path)
        assert response.status == 404, path


@pytest.mark.parametrize(
    "path",
    ["/cockpit/..%2Ffreya.js", "/cockpit/..%2f..%2fcli.py", "/cockpit/%2Fetc%2Fpasswd", "/cockpit/"],
)
async def test_nothing_beside_the_cockpit_is_served(freya: Running, path: str) -> None:
    response, _ = await get(freya, path)
    assert response.status in {302, 307, 404}


def test_package_names_what_is_there() -> None:
    package = json.loads((FOLDER / "package.json").read_text("utf-8"))
    assert all((FOLDER / name).is_file() for name in package["files"])
    published = {f"./{name}" for name in (*package["files"], "package.json")}
    named = re.findall(r'"(\./[^"]+\.(?:m?js|d\.ts|json))"', json.dumps(package["exports"]))
    assert set(named) <= published
    assert "dependencies" not in package


def test_package_is_published_whole_and_can_be_imported(tmp_path: Path) -> None:
    [packed] = json.loads(npm("pack", str(FOLDER), "--json", "--pack-destination", str(tmp_path)).stdout)
    package = json.loads((FOLDER / "package.json").read_text("utf-8"))
    assert {file["path"] for file in packed["files"]} == {*package["files"], "package.json"}
    assert (package["name"], package["version"]) == ("freya-gateway-client", __version__)
    with tarfile.open(tmp_path / packed["filename"]) as archive:
        archive.extractall(tmp_path, filter="data")
    installed = tmp_path / "node_modules" / package["name"]
    installed.parent.mkdir()
    (tmp_path / "package").rename(installed)
    program = tmp_path / "program.mjs"
    program.write_text('import { connectFreya } from "freya-gateway-client"; console.log(typeof connectFreya);')
    done = node(str(program))
    assert done.stdout.strip() == "function", done.stderr


def test_client_passes_its_own_tests() -> None:
    """Those of the client alone, in node: tests/client/freya.test.mjs."""
    done = node("--test", "tests/client/freya.test.mjs")
    assert done.returncode == 0, done.stdout + done.stderr
