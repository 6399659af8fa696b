"""A server of chat completions that misbehaves on purpose, on this machine."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from labeling.openai_engine import OpenAIEngine

TOP = {"A": -0.2, "B": -2.0, " A": -4.0, "The": -5.0}
Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


@dataclass
class Script:
    """What the server does: the listed answers to the first requests, then always the last."""

    answers: list[Answer]
    requests: list[dict[str, Any]] = field(default_factory=list)
    began: list[float] = field(default_factory=list)
    pause_s: float = 0.0
    """Before every answer; the requests under way are counted in it."""
    under_way: int = 0
    most_under_way: int = 0
    lock: Any = field(default_factory=threading.Lock)


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def completion(text: str | None, tops: list[dict[str, float]] | None = None) -> bytes:
    token = [
        {
            "token": next(iter(top)),
            "logprob": next(iter(top.values())),
            "bytes": None,
            "top_logprobs": [{"token": t, "logprob": p, "bytes": None} for t, p in top.items()],
        }
        for top in tops or []
    ]
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    choice["logprobs"] = {"content": token} if tops else None
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(body).encode()


def good(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    send(handler, 200, completion("re: " + request["messages"][-1]["content"], [TOP, {"!": -0.5}]))


def without_log_probs(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """Says B three times of four."""
    send(handler, 200, completion("A." if request.get("seed", 0) % 4 == 0 else " B"))


def refuses_log_probs(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    if "logprobs" in request:
        send(handler, 400, b'{"error": {"message": "logprobs are not supported by this model"}}')
    else:
        without_log_probs(handler, request)


def status(code: int, **headers: str) -> Answer:
    return lambda handler, request: send(handler, code, b'{"error": {"message": "on purpose"}}', **headers)


def hang(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    time.sleep(30)


def cut(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"id": "x", "cho')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def body(content: bytes, code: int = 200) -> Answer:
    return lambda handler, request: send(handler, code, content)


FAILURES = {
    "429": status(429),
    "500": status(500),
    "503": status(503),
    "hang": hang,
    "cut connection": cut,
    "no JSON": body(b"<html>busy</html>"),
    "half JSON": body(b'{"choices": [{"mess'),
    "a list": body(b"[1]"),
    "no choices": body(b'{"id": "x", "choices": []}'),
    "empty choice": body(b'{"id": "x", "choices": [{}]}'),
    "no text": body(completion(None)),
}


@contextlib.contextmanager
def serving() -> Iterator[Callable[..., tuple[OpenAIEngine, Script]]]:
    """Yield what begins a server that answers so, and returns an engine that asks it; all end afterwards."""
    servers = []

    def begin(*answers: Answer, **settings: Any) -> tuple[OpenAIEngine, Script]:
        script = Script(list(answers))

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with script.lock:
                    script.requests.append(request)
                    script.began.append(time.monotonic())
                    answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
                    script.under_way += 1
                    script.most_under_way = max(script.most_under_way, script.under_way)
                time.sleep(script.pause_s)
                with script.lock:
                    script.under_way -= 1
                with contextlib.suppress(OSError):  # the client has hung up
                    answer(self, request)

            def log_message(self, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        defaults: dict[str, Any] = {"backoff_s": 0.01, "timeout_s": 10.0, "attempts": 3, "concurrency": 4}
        return OpenAIEngine("m", url, "no key", **(defaults | settings)), script

    try:
        yield begin
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
