"""Fake the part of vLLM's /v1/completions that the engine uses, with the command line of `vllm serve`.

The replies come from a file in the student's directory: prompts, and their tokens including the end of turn.

Values of --fault:
    crashes-once: exit after five requests, once, and leave a mark in --folder.
    crashes: exit after five requests, always.
    unhealthy: never serve.
    rejects: reply with status 400.
    no-token-ids: reply without token ids, as vLLM before 0.10.2.
    aborts: reply with an unknown finish reason.
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
args = parser.parse_args()
assert (args.host, args.dtype, args.generation_config) == ("127.0.0.1", "float32", "vllm")
print("loading the weights", flush=True)
if args.fault == "unhealthy":
    threading.Event().wait()

replies = {tuple(prompt): tokens for prompt, tokens in json.loads(Path(args.student, "replies.json").read_text())}
lock, num_requests = threading.Lock(), 0
FIELDS = {"model", "prompt", "max_tokens", "temperature", "stop_token_ids", "return_token_ids"}


def complete(body: dict[str, Any]) -> dict[str, Any]:
    assert set(body) == FIELDS, f"unexpected fields {sorted(body)}"
    assert body["model"] == args.served_model_name, "wrong model name"
    assert len(body["prompt"]) + body["max_tokens"] <= int(args.max_model_len), "too long"
    assert body["temperature"] == 0.0, "not greedy"
    tokens = replies[tuple(body["prompt"])][: body["max_tokens"]]
    reason = "stop" if tokens[-1] in body["stop_token_ids"] else "length"
    assert not any(token in body["stop_token_ids"] for token in tokens[:-1]), "a stop token is missing"
    ids = {} if args.fault == "no-token-ids" else {"token_ids": tokens}
    reason = "abort" if args.fault == "aborts" else reason
    return {"choices": [{"index": 0, "text": "", "finish_reason": reason, **ids}]}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.reply(200 if self.path == "/health" else 404, {})

    def do_POST(self) -> None:
        global num_requests
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            num_requests += 1
            if args.fault == "rejects":
                self.reply(400, {"message": "the prompt is too long for this model"})
                return
            if num_requests > 5 and self.should_crash():
                print("CUDA out of memory", flush=True)
                os._exit(3)
            self.reply(200, complete(body))

    def should_crash(self) -> bool:
        if args.fault != "crashes-once":
            return args.fault == "crashes"
        mark = Path(args.folder, "crashed")
        crashed_before = mark.exists()
        mark.touch()
        return not crashed_before

    def reply(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


ThreadingHTTPServer(("127.0.0.1", int(args.port)), Handler).serve_forever()
