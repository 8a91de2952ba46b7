"""Speaks as much of vLLM's /v1/completions as the engine uses, from a command line like `vllm serve`'s.

It knows the student's answers from a file beside the weights: prompts, and tokens with the end of turn among them.
--fault: dies-once, which leaves a mark in --folder; dies; deaf, which never is healthy; refuses; untold, an old server
that tells no token ids.
"""

import argparse
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

parser = argparse.ArgumentParser()
parser.add_argument("verb", choices=["serve"])
parser.add_argument("student")
for option in ("--served-model-name", "--host", "--port", "--dtype", "--max-model-len", "--generation-config"):
    parser.add_argument(option, required=True)
parser.add_argument("--fault", default="none")
parser.add_argument("--folder", default="")
told = parser.parse_args()
fault = told.fault
assert (told.host, told.dtype, told.generation_config) == ("127.0.0.1", "float32", "vllm")
print("loading the weights", flush=True)
if fault == "deaf":
    threading.Event().wait()

known = {tuple(prompt): tokens for prompt, tokens in json.loads(Path(told.student, "answers.json").read_text())}
lock, answered = threading.Lock(), 0
FIELDS = {"model", "prompt", "max_tokens", "temperature", "stop_token_ids", "return_token_ids"}


def complete(body: dict[str, Any]) -> dict[str, Any]:
    assert set(body) == FIELDS, f"asked for {sorted(body)}"
    assert body["model"] == told.served_model_name, "of another name"
    assert len(body["prompt"]) + body["max_tokens"] <= int(told.max_model_len), "too long"
    assert body["temperature"] == 0.0, "not greedy"
    tokens = known[tuple(body["prompt"])][: body["max_tokens"]]
    stopped = tokens[-1] in body["stop_token_ids"]
    assert not any(token in body["stop_token_ids"] for token in tokens[:-1]), "a stop is missing"
    ids = {} if fault == "untold" else {"token_ids": tokens}
    return {"choices": [{"index": 0, "text": "", "finish_reason": "stop" if stopped else "length", **ids}]}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.say(200 if self.path == "/health" else 404, {})

    def do_POST(self) -> None:
        global answered
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            answered += 1
            if fault == "refuses":
                self.say(400, {"message": "the prompt is too long for me"})
                return
            if answered > 5 and self.dies():
                print("CUDA out of memory", flush=True)
                os._exit(3)
            self.say(200, complete(body))

    def dies(self) -> bool:
        if fault != "dies-once":
            return fault == "dies"
        mark = Path(told.folder, "died")
        died = mark.exists()
        mark.touch()
        return not died

    def say(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


ThreadingHTTPServer(("127.0.0.1", int(told.port)), Handler).serve_forever()
