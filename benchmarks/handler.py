"""The handler under load: ``python benchmarks/handler.py --model FOLDER --seconds 120``.

Serves the handler in a process of its own, behind a threaded HTTP server on the loopback, to clients that send good
and hostile requests at random. Every good one must be answered as the pipeline answers it, every bad one by a JSON
error with the status it deserves, and the server must be there at the end. Prints latency, throughput and memory,
writes ``benchmarks/results/handler.json``, and fails if an answer was wrong. Without ``--model`` a tiny random one is
made.
"""

import argparse
import base64
import http.client
import importlib.metadata
import io
import json
import math
import os
import platform
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from transformers import pipeline

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from handler import EndpointHandler, Limits, error_response  # noqa: E402

SERVING = "serving on port "
IDLE_S = 30.0  # a client that says nothing for so long is hung up on
SCORE_TOLERANCE = 1e-4
TEXTS = [
    "Jordan was seen in Paris with Anne-Marie O'Brien on Monday.",
    "Der FC Bayern München spielt am Samstag in Dortmund gegen Borussia.",
    "L'Amazone coule vers l'Atlantique, dit Victoria Santiago à Lyon.",
    "¿Vive Florencia en Santiago de Chile? Lo dijo El País.",
    "A short text without anybody in it.",
    "",
]


# The server


class Endpoint(BaseHTTPRequestHandler):
    """HTTP around the handler: what JSON itself cannot say is refused here."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    wbufsize = -1
    disable_nagle_algorithm = True
    handler: EndpointHandler

    def do_POST(self):
        """Reads no body that is longer than the handler would take."""
        length, limit = self.headers.get("Content-Length", ""), self.handler.limits.max_body_bytes
        if not length.isdecimal():
            return self.refuse("length_required", "Send a Content-Length; chunked bodies are not read.", 411)
        if len(length) > 18 or int(length) > limit:
            return self.refuse("too_large", f"The body has {length[:18]} bytes; the limit is {limit}.", 413)
        body = self.rfile.read(int(length))
        if len(body) < int(length):  # hung up
            self.close_connection = True
            return None
        try:
            data = json.loads(body)
        except (ValueError, RecursionError):
            return self.send(error_response("invalid_json", "The body is not JSON, or nested too deeply.", 400))
        return self.send(self.handler(data))

    def do_GET(self):
        """Only POST is for us."""
        self.refuse("method_not_allowed", "Send a POST.", 405)

    def refuse(self, kind: str, message: str, status: int) -> None:
        self.close_connection = True  # its body is not read
        self.send(error_response(kind, message, status))

    def send(self, answer: list | dict) -> None:
        body = json.dumps(answer).encode()
        self.send_response(answer["error"]["status"] if isinstance(answer, dict) else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Quiet."""


class Server(ThreadingHTTPServer):
    """Clients that hang up are no news."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """As without us, but for lost connections."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def serve(model: str) -> None:
    """Serves until the process is ended."""
    server = Server(("127.0.0.1", 0), type("Handler", (Endpoint,), {"handler": EndpointHandler(model)}))
    sys.stdout.write(f"{SERVING}{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


@contextmanager
def running(model: str, log: Path) -> Iterator[tuple[psutil.Process, int]]:
    """The server in a process of its own, and its port."""
    with log.open("w") as errors:
        command = [sys.executable, __file__, "--serve", "--model", model]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)
        try:
            line = next((line for line in process.stdout if line.startswith(SERVING)), None)
            if line is None:
                raise RuntimeError(f"The server did not start:\n{log.read_text()[-2000:]}")
            yield psutil.Process(process.pid), int(line.removeprefix(SERVING))
        finally:
            process.terminate()
            process.wait(timeout=30)


# The requests


@dataclass
class Case:
    """A request, and the answer that it deserves: entities, or the status of an error."""

    name: str
    body: bytes
    status: int = 200
    entities: list | None = None
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"


def picture(seed: int, kind: str = "JPEG", size_px: int = 256) -> bytes:
    """A picture of coarse noise, as a file."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((size_px, size_px * 3 // 4)).save(buffer, kind)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes whose header promises so many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(2**20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def good_cases(model: str) -> list[Case]:
    """Texts with pictures and without, and what the pipeline itself says to them."""
    ner = pipeline("token-classification", model=model, trust_remote_code=True)
    files = [picture(1), picture(2, "PNG"), picture(3, "WEBP", 1024)]
    coded = [base64.b64encode(file).decode() for file in files]
    images = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    cases = []

    def add(name: str, inputs, texts, pictures, **parameters) -> None:
        data = {"inputs": inputs, "parameters": parameters} if parameters else {"inputs": inputs}
        found = ner(texts, images=pictures, batch_size=8, **parameters)
        cases.append(Case(name, json.dumps(data).encode(), entities=found))

    for number, text in enumerate(TEXTS):
        add(f"text {number}", text, text, None)
    add("text and base64", {"text": TEXTS[0], "image": coded[0]}, TEXTS[0], images[0])
    uri = f"data:image/png;base64,{coded[1]}"
    add("text and data: URI", {"text": TEXTS[1], "image": uri}, TEXTS[1], images[1])
    add("large picture", {"text": TEXTS[2], "image": coded[2]}, TEXTS[2], images[2])
    mixed = [{"text": text, "image": coded[0] if number % 2 else None} for number, text in enumerate(TEXTS)]
    add("batch", mixed, TEXTS, [images[0] if number % 2 else None for number in range(len(TEXTS))])
    add("parameters", TEXTS[:2], TEXTS[:2], None, min_score=0.5, top_k=2, stride=8)
    add("long text", " ".join(TEXTS) * 4, " ".join(TEXTS) * 4, None)
    return cases


def bad_cases(limits: Limits) -> list[Case]:
    """Each kind of request that must be refused."""

    def inputs(value, **more) -> bytes:
        return json.dumps({"inputs": value, **more}).encode()

    def image(value) -> bytes:
        return inputs({"text": TEXTS[0], "image": value})

    def coded(content: bytes) -> bytes:
        return image(base64.b64encode(content).decode())

    too_long = {"Content-Length": str(limits.max_body_bytes + 1)}
    return [
        Case("oversized body", b'{"inputs": "', 413, headers=too_long),
        Case("endless length", b"{}", 413, headers={"Content-Length": "9" * 5000}),
        Case("no length", b"", 411, headers={"Transfer-Encoding": "chunked"}),
        Case("not a POST", b"", 405, method="GET"),
        Case("no JSON", b"inputs=a", 400),
        Case("not UTF-8", b'{"inputs": "\xff"}', 400),
        Case("nested JSON", b"[" * 100_000, 400),
        Case("nested inputs", b'{"inputs": ' + b"[" * 500 + b"]" * 500 + b"}", 400),
        Case("no inputs", b"{}", 400),
        Case("wrong type", inputs(17), 400),
        Case("wrong type in a list", inputs([TEXTS[0], None]), 400),
        Case("wrong type of image", image({"url": "x"}), 400),
        Case("wrong key", inputs({"text": "a", "file": "b"}), 400),
        Case("half a character", b'{"inputs": "\\ud83d"}', 400),
        Case("unknown parameter", inputs("a", parameters={"threshold": 1}), 400),
        Case("wrong parameter", inputs("a", parameters={"min_score": "high"}), 400),
        Case("greedy parameter", inputs("a", parameters={"batch_size": 10**9}), 400),
        Case("unknown entity type", inputs("a b", parameters={"entity_types": ["NONE SUCH"]}), 400),
        Case("too many texts", inputs(["a"] * (limits.max_texts + 1)), 413),
        Case("too long a text", inputs("a " * limits.max_text_characters), 413),
        Case("malformed base64", image("%" * 100), 422),
        Case("base64 of no image", coded(bytes(1000)), 422),
        Case("cut image", coded(picture(4)[:2000]), 422),
        Case("corrupt image", coded(picture(4, "PNG")[:200] + os.urandom(500)), 422),
        Case("bomb image", coded(bomb(30_000, 30_000)), 422),
        Case("bomb image below Pillow's limit", coded(bomb(9_000, 9_000)), 422),
        Case("URL", image("http://127.0.0.1:1/a.png"), 422),
        Case("file URL", image("file:///etc/passwd"), 422),
        Case("path", image("/etc/passwd"), 422),
    ]


# The clients


class Client:
    """One client's connection, kept while the server keeps it."""

    def __init__(self, port: int):
        self.port = port
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, case: Case) -> tuple[int, object]:
        """Status and JSON of the answer."""
        headers = {"Content-Type": "application/json", "Content-Length": str(len(case.body)), **case.headers}
        if "Transfer-Encoding" in headers:
            del headers["Content-Length"]
        self.connection.putrequest(case.method, "/")
        for name, value in headers.items():
            self.connection.putheader(name, value)
        self.connection.endheaders(case.body)
        response = self.connection.getresponse()
        answer = json.loads(response.read())
        if response.will_close:
            self.connection.close()
        return response.status, answer

    def hang_up(self) -> None:
        """Leaves in the middle of a request."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock:
            sock.sendall(b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{"inputs": "a')


def fault(case: Case, status: int, answer: object) -> str | None:
    """What is wrong with an answer, if anything."""
    if status != case.status:
        return f"{case.name}: status {status}, expected {case.status}: {str(answer)[:200]}"
    if case.entities is not None:
        return None if same(answer, case.entities) else f"{case.name}: other entities: {str(answer)[:200]}"
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict) or set(error) != {"type", "message", "status"} or error["status"] != status:
        return f"{case.name}: not an error as it should be: {str(answer)[:200]}"
    return f"{case.name}: a stack trace" if "Traceback" in error["message"] else None


def same(found: object, expected: object) -> bool:
    """Whether two JSON values are equal, floats nearly."""
    if isinstance(expected, float):
        return isinstance(found, (int, float)) and math.isclose(found, expected, abs_tol=SCORE_TOLERANCE)
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[key], value) for key, value in expected.items())
        )
    return found == expected


def bombard(port: int, cases: list[Case], seconds: float, seed: int, latencies: dict, faults: Counter) -> None:
    """One client's requests, until the time is over."""
    generator, client = random.Random(seed), Client(port)
    good, bad = ([case for case in cases if (case.entities is not None) is kind] for kind in (True, False))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if generator.random() < 0.02:
            client.hang_up()
        case = generator.choice(good if generator.random() < 0.5 else bad)
        start = time.perf_counter()
        try:
            wrong = fault(case, *client.ask(case))
        except (OSError, ValueError, http.client.HTTPException) as error:
            client.connection.close()
            wrong = f"{case.name}: no answer ({type(error).__name__}: {error})"
        latencies["good" if case.entities is not None else "bad"].append(time.perf_counter() - start)
        if wrong:
            faults[wrong] += 1


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds."""
    if not seconds:
        return {}
    values = np.array(seconds) * 1000
    named = {f"p{q}_ms": round(float(np.percentile(values, q)), 1) for q in (50, 90, 99)}
    return {"requests": len(seconds), **named, "max_ms": round(float(values.max()), 1)}


def tiny_model(folder: Path) -> str:
    """A model of random weights, in a folder."""
    from mmner.tiny_towers import make_tiny_towers
    from modeling_2mner import TwoMNERForTokenClassification
    from processing_2mner import TwoMNERProcessor

    towers = make_tiny_towers(folder / "towers", [text.split() for text in TEXTS], vocab_size=320)
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    torch.manual_seed(0)
    model = TwoMNERForTokenClassification.from_towers(*towers, labels=labels)
    with torch.no_grad():
        for parameter in model.parameters():  # large enough for entities to be found
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
    model.save_pretrained(folder / "model")
    TwoMNERProcessor.from_towers(*towers).save_pretrained(folder / "model")
    return str(folder / "model")


def bench(model: str, seconds: float, clients: int, scratch: Path) -> dict:
    """Serves a model and bombards it."""
    cases = good_cases(model) + bad_cases(Limits.from_environment())
    faults: Counter[str] = Counter()
    with running(model, scratch / "server.log") as (process, port):
        for case in cases:  # each once, alone: warms up, and finds what is wrong without any load
            wrong = fault(case, *Client(port).ask(case))
            if wrong:
                faults[f"alone: {wrong}"] += 1
        latencies = [defaultdict(list) for _ in range(clients)]
        threads = [
            threading.Thread(target=bombard, args=(port, cases, seconds, number, latencies[number], faults))
            for number in range(clients)
        ]
        memory_mib = [process.memory_info().rss / 2**20]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(min(1.0, seconds / 20))
            memory_mib.append(process.memory_info().rss / 2**20)
        elapsed_s = time.monotonic() - start
        time.sleep(1)
        memory_mib.append(process.memory_info().rss / 2**20)
        alive = process.is_running() and Client(port).ask(cases[0])[0] == 200
        threads_left, open_files = process.num_threads(), process.num_fds()
    log = (scratch / "server.log").read_text()
    merged = {kind: [value for each in latencies for value in each[kind]] for kind in ("good", "bad")}
    return {
        "seconds": round(elapsed_s, 1),
        "clients": clients,
        "kinds_of_requests": len(cases),
        "requests_per_s": round(sum(map(len, merged.values())) / elapsed_s, 1),
        "good": percentiles(merged["good"]),
        "bad": percentiles(merged["bad"]),
        "memory_mib": {
            "start": round(memory_mib[0]),
            "half": round(memory_mib[len(memory_mib) // 2]),
            "end": round(memory_mib[-1]),
            "peak": round(max(memory_mib)),
        },
        "threads_at_end": threads_left,
        "open_files_at_end": open_files,
        "alive": alive,
        "stack_traces_in_log": log.count("Traceback"),
        "wrong_answers": sum(faults.values()),
        "first_wrong": dict(faults.most_common(5)),
    }


def main() -> None:
    """Serve, or measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="folder of a trained model; default: a tiny one of random weights")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "handler.json")
    parser.add_argument("--serve", action="store_true", help="only serve, until ended")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.model)
        return
    with tempfile.TemporaryDirectory() as scratch:
        model = arguments.model or tiny_model(Path(scratch))
        result = bench(model, arguments.seconds, arguments.clients, Path(scratch))
    facts = {
        "command": f"python benchmarks/handler.py --seconds {arguments.seconds:g} --clients {arguments.clients}",
        "model": Path(arguments.model).name if arguments.model else "tiny, random weights",
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "system": platform.system()},
        "date": time.strftime("%Y-%m-%d"),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "pillow")},
        "results": result,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(facts, indent=1) + "\n")
    for name, value in result.items():
        print(f"{name}: {value}")
    if result["wrong_answers"] or not result["alive"]:
        sys.exit("There were wrong answers, or the server is gone: see above.")


if __name__ == "__main__":
    main()
