"""An HTTP server over a model: the handler's JSON at `/predict`, where requests that wait are read together."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Any

try:
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, Histogram, generate_latest
    from starlette.requests import ClientDisconnect
except ImportError as error:
    raise ImportError(f"{error}. To serve a model, install the extra `serve`: pip install '.[serve]'") from error

from handler import EndpointHandler, Limits, RequestError, error_response

MAX_BATCH_REQUESTS = 16  # that the model reads by one call; each waits in a thread of its own
BODY_TIMEOUT_S = 30.0
RETRY_AFTER_S = 1
ENVIRONMENT = "MMNER_"  # + the name of a limit
EXAMPLE = {"inputs": [{"text": "Jordan was seen in Paris.", "image": None}], "parameters": {"min_score": 0.5}}
ERRORS = {400: "Not a request", 413: "Too large", 422: "An image that does not open", 503: "Too many requests wait"}


@dataclass(frozen=True)
class ServerLimits(Limits):
    """What one request may ask for, and how many requests may be open at once."""

    max_body_bytes: int = 16 * 2**20
    max_open_requests: int = 64

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "ServerLimits":
        """
        The limits that `MMNER_MAX_TEXTS` and its like set; the others keep their defaults.

        Raises:
            ValueError: a value that is no whole number above 0, or a limit that does not exist.
        """
        names = {f"{ENVIRONMENT}{one.name.upper()}": one.name for one in fields(cls)}
        given = {name: value for name, value in environment.items() if name.startswith(f"{ENVIRONMENT}MAX_")}
        for name, value in given.items():
            if name not in names:
                raise ValueError(f"There is no limit {name}; expected one of {', '.join(names)}.")
            if not (value.isascii() and value.isdigit() and int(value)):
                raise ValueError(f"{name} is {value[:80]!r}; expected a whole number, 1 or more.")
        return cls(**{names[name]: int(value) for name, value in given.items()})


class BatchingHandler(EndpointHandler):
    """
    Answers as [`EndpointHandler`]. The model reads, by one call, all requests with equal parameters that wait when it
    is free. The answers are those of single calls (to float tolerance).

    Args:
        ner: a [`TwoMNERPipeline`].
        limits: what a request may ask for.
        registry: where the number of requests in a call is counted.
    """

    def __init__(self, ner: Any, limits: Limits, registry: CollectorRegistry):
        super().__init__(ner=ner, limits=limits)
        about = "Requests that the model read by one call"
        self._sizes = Histogram("mmner_batch_requests", about, buckets=(1, 2, 4, 8, 16), registry=registry)
        self._jobs: deque[tuple[str, dict, list[dict], Future]] = deque()  # parameters as JSON, parameters, inputs
        self._threads = ThreadPoolExecutor(MAX_BATCH_REQUESTS, "request")
        self._model_thread = ThreadPoolExecutor(1, "model")

    async def answer(self, body: bytes) -> tuple[int, bytes]:
        """The HTTP status and the JSON that answer a body."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._answer_body, body)

    def find(self, items: list[dict], parameters: dict[str, Any]) -> list[list[dict]]:
        """What the pipeline finds; the calling thread waits until the model's thread has read it."""
        try:
            key = json.dumps(parameters, sort_keys=True)
        except RecursionError as error:
            raise RequestError("invalid_parameter", "`parameters` are nested too deep.") from error
        found: Future = Future()
        self._jobs.append((key, parameters, items, found))
        self._model_thread.submit(self._read_waiting)
        return found.result()

    def close(self) -> None:
        """Ends the threads, once they have answered what they have."""
        self._threads.shutdown()
        self._model_thread.shutdown()

    def _answer_body(self, body: bytes) -> tuple[int, bytes]:
        try:
            return encoded(self(json.loads(body)))
        except (ValueError, RecursionError) as error:
            why = ascii(str(error))[1:-1][:200]
            return encoded(error_response("invalid_json", f"The body cannot be read as JSON: {why}", 400))

    def _read_waiting(self) -> None:
        groups: dict[str, list] = {}
        while self._jobs:
            key, *job = self._jobs.popleft()
            groups.setdefault(key, []).append(job)
        for jobs in groups.values():
            self._read(jobs)

    def _read(self, jobs: list) -> None:
        try:
            found = iter(self.ner([item for _, items, _ in jobs for item in items], **jobs[0][0]))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0][2].set_exception(error)
            else:  # one of them is at fault, and the others are answered
                for job in jobs:
                    self._read([job])
            return
        self._sizes.observe(len(jobs))
        for _, items, future in jobs:
            future.set_result([next(found) for _ in items])


def encoded(answer: list | dict) -> tuple[int, bytes]:
    """The HTTP status and the JSON of what the handler answers."""
    return answer["error"]["status"] if isinstance(answer, dict) else 200, json.dumps(answer).encode()


def make_app(ner: Any, limits: ServerLimits, name: str = "2M-NER") -> FastAPI:
    """
    The application: `/predict`, `/health`, `/metrics`, and `/docs`, its OpenAPI page.

    Args:
        ner: a [`TwoMNERPipeline`].
        limits: what a request may ask for, and how many may be open.
        name: the model's, which `/health` tells.
    """
    registry = CollectorRegistry()
    handler = BatchingHandler(ner, limits, registry)
    about = "From the head of a request for /predict to its answer"
    seconds = Histogram("mmner_request_seconds", about, ["status"], registry=registry)
    num_open = 0
    Gauge("mmner_open_requests", "Requests that wait or are read", registry=registry).set_function(lambda: num_open)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        yield
        handler.close()
        number = sum(one.value for one in next(iter(seconds.collect())).samples if one.name.endswith("_count"))
        sys.stderr.write(f"mmner serve: stopped after {number:.0f} answers\n")

    app = FastAPI(title=f"2M-NER: {name}", lifespan=lifespan)

    async def read_body(request: Request) -> bytes:
        if num_open > limits.max_open_requests:
            message = f"{limits.max_open_requests} requests are open; send this one again in {RETRY_AFTER_S} s."
            raise RequestError("overloaded", message, 503)
        length, content = int(request.headers.get("content-length", "0")), bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                parts = request.stream()
                while max(length, len(content)) <= limits.max_body_bytes:
                    part = await anext(parts, None)
                    if part is None:
                        return bytes(content)
                    content += part
        except (TimeoutError, ClientDisconnect) as error:
            raise RequestError("no_body", f"The body did not come within {BODY_TIMEOUT_S:g} s.", 408) from error
        raise RequestError("too_large", f"The body has more than {limits.max_body_bytes} bytes.", 413)

    responses: dict[int | str, dict[str, Any]] = {status: {"description": text} for status, text in ERRORS.items()}
    content = {"application/json": {"schema": {"type": "object"}, "example": EXAMPLE}}

    @app.post("/predict", responses=responses, openapi_extra={"requestBody": {"content": content, "required": True}})
    async def predict(request: Request) -> Response:
        """
        The entities of a text, or of each of a list of texts.

        `inputs` is a text, or `{"text": ..., "image": base64 or data: URI}`, or a list of these; `parameters` are
        options of the pipeline. An error has its `type`, a `message` and the HTTP `status`.
        """
        nonlocal num_open
        start, num_open = time.perf_counter(), num_open + 1
        try:
            status, body = await handler.answer(await read_body(request))
        except RequestError as error:
            status, body = encoded(error_response(error.kind, str(error), error.status))
        finally:
            num_open -= 1
        seconds.labels(status).observe(time.perf_counter() - start)
        headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
        return Response(body, status, headers, "application/json")

    @app.get("/health")
    async def health() -> dict[str, str]:
        """That the server answers, and by which model."""
        return {"status": "ok", "model": name}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Requests by status, their seconds, and how many were read by one call, in Prometheus' text format."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def bind(host: str, port: int) -> socket.socket:
    """
    The socket to serve at; 0 takes a free port.

    Raises:
        OSError: the address cannot be used.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise OSError(
            f"Cannot serve at {host}, port {port}: {str(error).rstrip('.')}. Give another --host or --port."
        ) from error


def serve(app: FastAPI, bound: socket.socket) -> None:
    """Serves until SIGTERM or Ctrl-C: then new requests are refused, those that it has are answered."""
    server = uvicorn.Server(uvicorn.Config(app, http="h11", ws="none", log_level="warning", access_log=False))
    signal.signal(signal.SIGTERM, server.handle_exit)  # uvicorn raises the signal again when it has stopped
    host, port = bound.getsockname()[:2]
    sys.stderr.write(f"mmner serve: http://{f'[{host}]' if ':' in host else host}:{port}, described at /docs\n")
    server.run(sockets=[bound])
