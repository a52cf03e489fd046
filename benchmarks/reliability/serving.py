"""``mmner serve`` under load, and stopped in the middle of it: ``python benchmarks/reliability/serving.py [MODEL]``.

Clients send requests without a pause, every third of them hostile (``hostile_inputs.py``, and bytes that are no
request). The right answer to a good request is known from single calls of the pipeline, that to a hostile one from the
handler. Then SIGTERM stops the server while good requests come in: clients must have received as many answers as it
says that it gave. Writes ``benchmarks/results/serving.json``; exits with 1 after any fault.
"""

import argparse
import base64
import http.client
import io
import json
import logging
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import RESULTS, about, write  # noqa: E402
from benchmarks.reliability import hostile_inputs  # noqa: E402
from handler import EndpointHandler, Limits  # noqa: E402
from mmner.cli import load  # noqa: E402
from mmner.demo import POSTS  # noqa: E402

TOLERANCE = 1e-4  # of a score
MAX_P99 = 4.0  # times the median
MAX_GROWTH = 1.1  # of memory, from the middle of the run to its end
MAX_BODY_BYTES = 2**20  # the hostile bodies of 17 MB would measure how fast a client sends
START_TIMEOUT_S = 120.0
# What is sent as it stands, and the status it must get (0: none; the client goes before it could come).
HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\n"
RAW = [
    (b"nonsense\r\n\r\n", 400),
    (HEAD + b"Content-Length: 9\r\n\r\n{'a': 1}\n", 400),
    (HEAD + b"Content-Length: 9999999\r\n\r\n", 413),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%s\r\n" % (2**19 + 1, b" " * (2**19 + 1)) * 2, 413),
    (HEAD + b"Content-Length: 99\r\n\r\n{", 0),
    (b"GET /predict HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    (b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 404),
]


class Case(NamedTuple):
    """A request and its right answer: entities, or the status and type of an error; `raw` are bytes, and a status."""

    body: bytes
    status: int
    right: Any = None
    raw: bool = False


def good_cases(ner: Any, random: Random, number: int) -> list[Case]:
    """Texts with and without images, alone and several, answered by single calls of the pipeline."""

    def png(image: Image.Image) -> str:
        image.save(content := io.BytesIO(), "PNG")
        return base64.b64encode(content.getvalue()).decode()

    inputs: list[Any] = [text for text, _ in POSTS] + [text for text in hostile_inputs.TEXTS]
    inputs += [{"text": text, "image": png(draw())} for text, draw in POSTS if draw is not None]
    images = {one["image"]: Image.open(io.BytesIO(base64.b64decode(one["image"]))) for one in inputs if "image" in one}
    answers = [
        ner(one) if isinstance(one, str) else ner(one["text"], images=images[one["image"]].convert("RGB"))
        for one in inputs
    ]
    cases = []
    for place in range(number):
        chosen = random.sample(range(len(inputs)), random.choice([1, 1, 2, 3]))
        right = [answers[one] for one in chosen]
        given = [inputs[one] for one in chosen]
        body = {"inputs": given[0]} if place % 2 else {"inputs": given}
        cases.append(Case(json.dumps(body).encode(), 200, right[0] if place % 2 else right))
    return cases


def hostile_cases(ner: Any, random: Random, number: int, port: int) -> list[Case]:
    """Requests of all kinds, answered by the handler; and bytes that are none."""
    handler = EndpointHandler(ner=ner, limits=Limits())
    cases = [Case(content, status, raw=True) for content, status in RAW]
    for body in hostile_inputs.bodies(random, number, port):
        content = json.dumps(body).encode()
        answer = handler(json.loads(content))
        if len(content) > MAX_BODY_BYTES:
            cases.append(Case(content, 413, "too_large"))
        elif isinstance(answer, dict):  # else it is a good one after all
            cases.append(Case(content, answer["error"]["status"], answer["error"]["type"]))
    return cases


def same(found: Any, right: Any) -> bool:
    """Whether two answers are equal, numbers to `TOLERANCE`."""
    if isinstance(right, float) and isinstance(found, float):
        return bool(np.isclose(found, right, rtol=0, atol=TOLERANCE))
    if isinstance(right, list) and isinstance(found, list):
        return len(found) == len(right) and all(map(same, found, right))
    if isinstance(right, dict) and isinstance(found, dict):
        return list(found) == list(right) and all(same(found[key], right[key]) for key in right)
    return type(found) is type(right) and found == right


class Client(threading.Thread):
    """Sends requests without a pause until `done`; ends when the server refuses while `is_stopping`."""

    def __init__(self, port: int, seed: int, good: list[Case], hostile: list[Case], done: threading.Event):
        super().__init__(daemon=True)
        self.port, self.random, self.good, self.hostile, self.done = port, Random(seed), good, hostile, done
        self.is_stopping = threading.Event()
        self.good_ms: list[float] = []
        self.hostile_ms: list[float] = []
        self.counts: Counter[str] = Counter()
        self.first_wrong: list[str] = []
        self.connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        number = 0
        while not self.done.is_set():
            number += 1
            is_hostile = bool(self.hostile) and number % 3 == 0
            case = self.random.choice(self.hostile if is_hostile else self.good)
            start = time.perf_counter()
            try:
                fault = self.raw(case) if case.raw else self.ask(case)
            except (OSError, http.client.HTTPException) as error:
                self.connection = None
                if self.is_stopping.is_set():
                    self.counts["refused"] += 1
                    return
                self.counts["lost"] += 1
                self.first_wrong.append(f"{type(error).__name__}: {error}; asked {case.body[:80]!r}")
                continue
            (self.hostile_ms if is_hostile else self.good_ms).append(1000 * (time.perf_counter() - start))
            if fault:
                self.counts["wrong"] += 1
                self.first_wrong.append(f"{fault}; asked {ascii(case.body[:200])}, expected {case[1:3]}")

    def ask(self, case: Case) -> str:
        """What is wrong with an answer."""
        self.connection = self.connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.connection.request("POST", "/predict", case.body)
        response = self.connection.getresponse()
        answer = json.loads(response.read())
        self.counts["answered"] += 1
        if response.will_close:
            self.connection = None
        if response.status != case.status:
            return f"status {response.status}, {ascii(answer)[:200]}"
        if response.status == 200:
            return "" if same(answer, case.right) else f"answered {ascii(answer)[:500]}"
        return "" if answer["error"]["type"] == case.right else f"answered {answer}"

    def raw(self, case: Case) -> str:
        """Sends bytes by a connection of their own; what is wrong with the status that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(case.body)
            if not case.status:
                return ""
            head = connection.recv(12)
        return "" if head == b"HTTP/1.1 %d" % case.status else f"began with {head!r}"


class Server:
    """`mmner serve` as a process of its own, at a free port."""

    def __init__(self, model: str | None, log: Path):
        words = [sys.executable, "-m", "mmner", "serve", *([model] if model else []), "--port", "0"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "MMNER_MAX_BODY_BYTES": str(MAX_BODY_BYTES)}
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(words, stderr=file, env=environment)
        end = time.monotonic() + START_TIMEOUT_S
        while not (found := re.findall(r"mmner serve: http://[^ ]*:(\d+),", log.read_text())):
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"The server did not start: {log.read_text()[-1000:]}")
            time.sleep(0.1)
        self.port = int(found[0])

    def memory_mib(self) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

    def answers(self) -> int:
        """The answers of /predict so far."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return sum(int(float(number)) for number in re.findall(r"^mmner_request_seconds_count\S* (\S+)", text, re.M))


def times(values_ms: list[float]) -> dict[str, float]:
    """Requests, and quantiles of their times."""
    quantiles = {f"p{share}_ms": round(float(np.percentile(values_ms, share)), 1) for share in (50, 90, 99)}
    return {"requests": len(values_ms)} | quantiles | {"max_ms": round(max(values_ms), 1)}


def main() -> int:
    """Runs both parts, prints and writes what was found; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("model", nargs="?", help="folder of a model; default: the bundled model")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "serving.json")
    given = parser.parse_args()
    logging.disable()  # of images that do not open
    torch.set_num_threads(1)
    random, ner = Random(given.seed), load(given.model, device="cpu")
    with socket.create_server(("127.0.0.1", 0)) as site, tempfile.TemporaryDirectory() as folder:
        site.setblocking(False)
        good = good_cases(ner, random, 60)
        hostile = hostile_cases(ner, random, 300, site.getsockname()[1])
        server = Server(given.model, Path(folder) / "log")
        try:
            results = measure(server, good, hostile, given.seconds, given.clients) | stop(server, good, given.clients)
        finally:
            server.process.kill()
        results["stack_traces_in_log"] = server.log.read_text().count("Traceback")
        results["connections_to_addresses_in_requests"] = 0
        with suppress(BlockingIOError):
            site.accept()
            results["connections_to_addresses_in_requests"] = 1
    faults = faults_of(results)
    print(json.dumps(results | {"faults": faults}, indent=1))
    libraries = ["torch", "transformers", "pillow", "fastapi", "starlette", "uvicorn"]
    write(given.output, about(libraries) | {"results": results | {"faults": faults}})
    return int(bool(faults))


def measure(server: Server, good: list[Case], hostile: list[Case], seconds: float, num: int) -> dict[str, Any]:
    """Every third request hostile, for so many seconds."""
    done = threading.Event()
    clients = [Client(server.port, seed, good, hostile, done) for seed in range(num)]
    start, memory = time.perf_counter(), [server.memory_mib()]
    for client in clients:
        client.start()
    while (passed := time.perf_counter() - start) < seconds:
        time.sleep(min(0.5, seconds - passed))
        memory.append(server.memory_mib())
    done.set()
    for client in clients:
        client.join()
    taken = time.perf_counter() - start
    answered = [value for client in clients for value in client.good_ms]
    refused = [value for client in clients for value in client.hostile_ms]
    counts = sum((client.counts for client in clients), Counter())
    half, quarter = len(memory) // 2, max(1, len(memory) // 4)
    return {
        "seconds": round(taken, 1),
        "clients": num,
        "requests_per_s": round((len(answered) + len(refused)) / taken, 1),
        "good": times(answered),
        "hostile": times(refused),
        "lost": counts["lost"],
        "wrong": counts["wrong"],
        "first_wrong": [line for client in clients for line in client.first_wrong][:5],
        "memory_mib": {
            "start": round(memory[0]),
            "second_quarter": round(statistics.median(memory[half - quarter : half])),
            "last_quarter": round(statistics.median(memory[-quarter:])),
            "peak": round(max(memory)),
        },
    }


def stop(server: Server, good: list[Case], num: int) -> dict[str, Any]:
    """SIGTERM while good requests come in: the answers that clients received, and those that the server gave."""
    before, clients = (
        server.answers(),
        [Client(server.port, -seed, good, [], threading.Event()) for seed in range(num)],
    )
    for client in clients:
        client.start()
    time.sleep(3)
    for client in clients:
        client.is_stopping.set()
    start = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    status = server.process.wait(60)
    taken = time.perf_counter() - start
    for client in clients:
        client.join(60)
    counts = sum((client.counts for client in clients), Counter())
    given = int(re.findall(r"stopped after (\d+) answers", server.log.read_text())[0]) - before
    return {
        "stop": {
            "seconds": round(taken, 2),
            "exit_status": status,
            "answers_given": given,
            "answers_received": counts["answered"],
            "wrong": counts["wrong"],
            "lost_before": counts["lost"],
            "clients_refused": counts["refused"],
        }
    }


def faults_of(results: dict[str, Any]) -> list[str]:
    """What must not be."""
    memory, end = results["memory_mib"], results["stop"]
    checks = {
        "lost requests": results["lost"] or end["lost_before"],
        "wrong answers": results["wrong"] or end["wrong"],
        "p99": results["good"]["p99_ms"] >= MAX_P99 * results["good"]["p50_ms"],
        "memory grows": memory["last_quarter"] > MAX_GROWTH * memory["second_quarter"],
        "exit status": end["exit_status"] != 0,
        "answers lost at the stop": end["answers_given"] != end["answers_received"],
        "stack traces": results["stack_traces_in_log"],
        "connections to addresses in requests": results["connections_to_addresses_in_requests"],
    }
    return [name for name, is_fault in checks.items() if is_fault]


if __name__ == "__main__":
    sys.exit(main())
