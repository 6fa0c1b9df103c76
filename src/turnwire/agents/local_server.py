"""The child process of the local model: `python -m turnwire.agents.local_server --model FILE`.

Guarantee: it listens on loopback only and answers only whoever has the key that it made up; it says where in one JSON
line on its stdout; it ends when its stdin closes, so that no parent, however it dies, leaves it behind.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import threading
from typing import Any

ALIAS = "SmolLM2-135M-Instruct"
"""The name under which the model is served."""


def main() -> None:
    """Serves until stdin closes."""
    parser = argparse.ArgumentParser(prog="turnwire.agents.local_server", description=__doc__)
    parser.add_argument("--model", required=True, help="path of a GGUF file")
    parser.add_argument("--context", type=int, default=4096, help="tokens of context, shared by the slots")
    parser.add_argument("--slots", type=int, default=2, help="requests that are answered at the same time")
    options = parser.parse_args()
    threading.Thread(target=_end_with_stdin, name="stdin", daemon=True).start()
    ready = _take_stdout()
    key = secrets.token_urlsafe(24)
    server = _serve(options.model, options.context, options.slots, key)
    with os.fdopen(ready, "w") as line:
        line.write(json.dumps({"base_url": f"{server.listening_address}/v1", "key": key}) + "\n")
    threading.Event().wait()


def _serve(model: str, context: int, slots: int, key: str) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {ALIAS}
    params.n_ctx = context
    params.n_parallel = slots
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.ui = False
    # Several threads wait for each other at every layer: with the cores busy, one writes ten times as fast as two.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 1) // 2)
    return xllamacpp.Server(params)


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        continue
    os._exit(0)


def _take_stdout() -> int:
    """A copy of stdout for the ready line; from now on whatever the library prints goes to stderr."""
    copy = os.dup(1)
    os.dup2(2, 1)
    return copy


if __name__ == "__main__":
    main()
