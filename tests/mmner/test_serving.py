"""The server: answers over HTTP, requests read together, limits, a stop that loses none; and the Dockerfile."""

import asyncio
import base64
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from starlette.testclient import TestClient
from test_load_image import encoded
from tiny_pipelines import noise, same

from mmner import serving
from mmner.cli import main
from mmner.serving import ServerLimits, make_app

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["Jordan was seen in Paris.", "Orange gewinnt gegen München!", "", "L'Amazone coule 🙂", "¿Vive en Santiago?"]
IMAGE = base64.b64encode(encoded(noise())).decode()


class Held:
    """The pipeline, which waits before each call until it may go on, and notes what it was given."""

    def __init__(self, ner):
        self.ner, self.may_go, self.calls = ner, threading.Event(), []

    def __getattr__(self, name):
        return getattr(self.ner, name)

    def __call__(self, items, **parameters):
        self.calls.append((len(items), parameters))
        assert self.may_go.wait(60)
        return self.ner(items, **parameters)


def wait_until(is_true, seconds=60.0):
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


def open_requests(metrics: str) -> int:
    return int(float(re.findall(r"^mmner_open_requests (\S+)$", metrics, re.MULTILINE)[0]))


# In this process


def test_answers_and_errors_are_the_handlers_with_their_status(ner):
    with TestClient(make_app(ner, ServerLimits(max_texts=2, max_body_bytes=9000), "tiny")) as client:
        found = client.post("/predict", json={"inputs": [{"text": TEXTS[0], "image": IMAGE}, TEXTS[3]]})
        assert (found.status_code, found.headers["content-type"]) == (200, "application/json")
        same(found.json(), ner(TEXTS[:1] + TEXTS[3:4], images=[noise(), None]))
        assert client.post("/predict", json={"inputs": TEXTS[0], "parameters": {"min_score": 1}}).json() == []
        assert client.post("/predict", json={"inputs": []}).json() == []
        errors = {
            '{"inputs": ': (400, "invalid_json"),
            b"\xff\xfe\x00": (400, "invalid_json"),
            "[" * 5000: (400, "invalid_json"),
            '{"inputs": "half \\ud83d"}': (400, "invalid_request"),
            '{"input": "a"}': (400, "invalid_request"),
            '{"inputs": "a", "parameters": {"top_k": 0}}': (400, "invalid_parameter"),
            '{"inputs": "a", "parameters": {"top_k": true}}': (400, "invalid_parameter"),
            '{"inputs": {"text": "a", "image": "b"}}': (422, "invalid_image"),
            '{"inputs": ["a", "b", "c"]}': (413, "too_large"),
            " " * 9001: (413, "too_large"),
        }
        for body, (status, kind) in errors.items():
            answer = client.post("/predict", content=body)
            error = answer.json()["error"]
            assert (answer.status_code, error["status"], error["type"]) == (status, status, kind), body
        assert client.get("/health").json() == {"status": "ok", "model": "tiny"}
        assert client.get("/predict").status_code == 405 and client.get("/lost").status_code == 404
        assert "/predict" in client.get("/openapi.json").json()["paths"] and client.get("/docs").status_code == 200
        metrics = client.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain")
        for status, number in {200: 3, 400: 7, 413: 2, 422: 1}.items():
            assert f'mmner_request_seconds_count{{status="{status}"}} {number}.0\n' in metrics.text


@pytest.fixture
def jobs(monkeypatch):
    """What waits for the model."""
    jobs = deque()
    monkeypatch.setattr(serving, "deque", lambda: jobs)
    return jobs


def test_requests_that_wait_are_read_together_and_answered_as_alone(ner, jobs):
    held = Held(ner)
    bodies = [{"inputs": text} for text in TEXTS]
    bodies += [{"inputs": TEXTS[:2]}, {"inputs": {"text": TEXTS[0], "image": IMAGE}}]
    bodies += [{"inputs": TEXTS[0], "parameters": {"top_k": 1}}, {"inputs": TEXTS[1], "parameters": {"top_k": True}}]
    with TestClient(make_app(held, ServerLimits())) as client, ThreadPoolExecutor(12) as pool:
        first = pool.submit(client.post, "/predict", json={"inputs": "a"})
        wait_until(lambda: held.calls)
        rest = [pool.submit(client.post, "/predict", json=body) for body in bodies]
        wait_until(lambda: len(jobs) == len(bodies))
        held.may_go.set()
        assert first.result().status_code == 200
        answers = [one.result() for one in rest]
        assert 'mmner_batch_requests_bucket{le="8.0"} 3.0' in client.get("/metrics").text
    assert [answer.status_code for answer in answers] == [200] * 8 + [400]
    assert sorted(held.calls[1:], key=str) == [(1, {"top_k": 1}), (1, {"top_k": True}), (8, {})]
    for text, answer in zip(TEXTS, answers, strict=False):
        same(answer.json(), ner(text))
    same(answers[5].json(), ner(TEXTS[:2]))
    same(answers[6].json(), ner(TEXTS[0], images=noise()))
    same(answers[7].json(), ner(TEXTS[0], top_k=1))


def test_of_requests_read_together_only_the_one_at_fault_fails_and_tells_its_status_alone(
    ner, jobs, monkeypatch, caplog
):
    split = ner._split

    def fails(inputs, *args, **options):
        return 1 / 0 if "bad" in str(inputs) else split(inputs, *args, **options)

    monkeypatch.setattr(ner, "_split", fails)
    held = Held(ner)
    with TestClient(make_app(held, ServerLimits())) as client, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(client.post, "/predict", json={"inputs": "a"})]
        wait_until(lambda: held.calls)
        asked += [pool.submit(client.post, "/predict", json={"inputs": text}) for text in (TEXTS[0], "bad", TEXTS[1])]
        wait_until(lambda: len(jobs) == 3)
        held.may_go.set()
        answers = [one.result() for one in asked]
    assert [number for number, _ in held.calls] == [1, 3, 1, 1, 1]
    assert [answer.status_code for answer in answers] == [200, 200, 500, 200]
    assert "division" not in answers[2].text and "division by zero" in caplog.text
    same(answers[3].json(), ner(TEXTS[1]))


def test_more_requests_than_may_wait_are_told_to_come_again(ner):
    held = Held(ner)
    with TestClient(make_app(held, ServerLimits(max_open_requests=2))) as client, ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(client.post, "/predict", json={"inputs": TEXTS[0]}) for _ in range(2)]
        wait_until(lambda: open_requests(client.get("/metrics").text) == 2)
        refused = client.post("/predict", json={"inputs": TEXTS[0]})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        error = refused.json()["error"]
        assert error["type"] == "overloaded" and "2 requests are open; send this one again in 1 s" in error["message"]
        assert client.get("/health").status_code == 200
        held.may_go.set()
        assert [one.result().status_code for one in asked] == [200, 200]
        assert client.post("/predict", json={"inputs": TEXTS[0]}).status_code == 200


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_body_that_does_not_come_is_not_waited_for(ner, is_gone, monkeypatch):
    monkeypatch.setattr(serving, "BODY_TIMEOUT_S", 0.1)
    app, sent = make_app(ner, ServerLimits()), []
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}

    async def receive():
        await asyncio.sleep(0 if is_gone else 60)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408 and json.loads(sent[1]["body"])["error"]["type"] == "no_body"


def test_limits_from_the_environment():
    assert ServerLimits.from_environment({}) == ServerLimits()
    given = {"MMNER_MAX_TEXTS": "3", "MMNER_MAX_BODY_BYTES": "1000", "PATH": "x"}
    assert ServerLimits.from_environment(given) == ServerLimits(max_texts=3, max_body_bytes=1000)
    for value in ("0", "-1", "1.5", "", "many", "²"):
        with pytest.raises(ValueError, match="MMNER_MAX_TEXTS is '.*'; expected a whole number, 1 or more"):
            ServerLimits.from_environment({"MMNER_MAX_TEXTS": value})
    with pytest.raises(
        ValueError, match="no limit MMNER_MAX_TEXT; expected one of MMNER_MAX_TEXTS, MMNER_MAX_TEXT_CH"
    ):
        ServerLimits.from_environment({"MMNER_MAX_TEXT": "3"})
    for name in ServerLimits.__dataclass_fields__:
        assert f"`MMNER_{name.upper()}`" in (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def test_without_the_extra_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "mmner.serving")
    monkeypatch.delattr("mmner.serving")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["serve"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mmner serve: ") and line.endswith("install the extra `serve`: pip install '.[serve]'")


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"Cannot serve at 127.0.0.1, port {port}: " in capsys.readouterr().err


# As a process of its own


@contextmanager
def running(words, folder, **environment):
    """A server's process and port. It is ended, if it is still there."""
    given = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    process = subprocess.Popen(words, cwd=folder, env=given, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        assert line.startswith("mmner serve: http://"), line + process.stderr.read()
        yield process, int(re.findall(r":(\d+),", line)[0])
    finally:
        process.kill()
        process.communicate()


def ask(port, path, body=None):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
    answer = client.getresponse()
    content = answer.read().decode()
    return answer.status, content if path == "/metrics" else json.loads(content)


def raw(port, content):
    """A connection that has sent these bytes."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(content)
    return connection


HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\n"


def test_a_large_body_is_refused_unread_and_a_stop_loses_no_request(ner, tmp_path):
    ner.save_pretrained(tmp_path / "model")
    words = [sys.executable, "-m", "mmner", "serve", "model", "--port", "0"]
    with running(words, tmp_path, MMNER_MAX_BODY_BYTES="1000") as (process, port):
        found = ask(port, "/predict", {"inputs": TEXTS[0]})
        same(found[1], ner(TEXTS[0]))
        told = raw(port, HEAD + b"Content-Length: 100000000\r\n\r\n")
        assert told.recv(12) == b"HTTP/1.1 413"  # nothing of the body was sent
        part = b"%x\r\n%s\r\n" % (600, b" " * 600)
        told = raw(port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + part)
        told.sendall(part)  # 1,200 bytes and no end
        assert told.recv(12) == b"HTTP/1.1 413"
        raw(port, HEAD + b"Content-Length: 100\r\n\r\nhalf").close()
        assert raw(port, b"nonsense\r\n\r\n").recv(12) == b"HTTP/1.1 400"

        body = json.dumps({"inputs": TEXTS[0]}).encode()
        begun = raw(port, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:5])
        idle = socket.create_connection(("127.0.0.1", port), timeout=60)
        wait_until(lambda: open_requests(ask(port, "/metrics")[1]) == 1)  # of later connections: it has these
        process.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b""
        with pytest.raises(ConnectionError):
            ask(port, "/health")
        assert process.poll() is None
        begun.sendall(body[5:])
        answer = b"".join(iter(lambda: begun.recv(65536), b""))
        head, _, content = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200") and json.loads(content) == found[1]
        assert process.wait(30) == 0
        assert "stopped after 5 answers" in process.stderr.read()


def test_the_dockerfile_copies_what_is_there_and_its_command_answers(tmp_path):
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    environment, commands = {}, {}
    for name, rest in steps:
        if name == "COPY":
            *sources, target = shlex.split(rest)
            for source in (path for pattern in sources for path in sorted(ROOT.glob(pattern)) or [ROOT / pattern]):
                to = tmp_path / target / (source.name if target == "./" else "")
                copy = shutil.copytree if source.is_dir() else shutil.copy
                copy(source, to, **({"symlinks": True} if source.is_dir() else {}))
        elif name == "ENV":
            environment |= dict([rest.split("=")])
        elif name in ("CMD", "HEALTHCHECK"):
            commands[name] = json.loads(rest[rest.index("[") :])
    install = next(rest for name, rest in steps if name == "RUN" and rest.startswith("pip install"))
    assert "--constraint constraints.txt" in install and "'.[serve]'" in install
    users = [rest for name, rest in steps if name == "USER"]
    assert users and "root" not in users
    port = commands["CMD"][-1]
    assert ["EXPOSE", port] in steps and f":{port}/health" in commands["HEALTHCHECK"][-1]

    words = [sys.executable, "-m", *commands["CMD"][:-1], "0"]
    with running(words, tmp_path, **environment, PYTHONPATH=str(tmp_path)) as (process, free):
        wait_until(lambda: ask(free, "/health") == (200, {"status": "ok", "model": "2m-ner-small"}))
        check = [sys.executable, *(word.replace(port, str(free)) for word in commands["HEALTHCHECK"][1:])]
        assert subprocess.run(check).returncode == 0
        found = ask(free, "/predict", {"inputs": "Lionel Messi llega a Miami"})
        assert [entity["word"] for entity in found[1]] == ["Lionel Messi", "Miami"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert subprocess.run(check, capture_output=True).returncode == 1


def test_the_extra_and_its_dependencies_are_pinned():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[canonicalize_name(name)] = version
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    for wanted in map(Requirement, config["options.extras_require"]["serve"].split()):
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), str(wanted)
    assert {"starlette", "opentelemetry-api", "h11", "click", "anyio", "pydantic"} <= set(pins)
    assert serving.uvicorn.__version__ == pins["uvicorn"]
