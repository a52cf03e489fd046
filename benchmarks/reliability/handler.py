"""The handler under load: ``python benchmarks/reliability/handler.py --model FOLDER --seconds 240``.

Several threads send the handler good and bad requests at random, as a server does. Each good one must be answered as
the pipeline answers it, each bad one by an error with its status. Writes latency, throughput and memory to
``benchmarks/results/handler.json``; exits with 1 if an answer was wrong. Without ``--model`` a tiny random model is
used.
"""

import argparse
import base64
import io
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from transformers import pipeline

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import RESULTS, about, peak_mib, write  # noqa: E402
from handler import EndpointHandler, Limits  # noqa: E402
from mmner.probe.tiny_towers import make_tiny_towers  # noqa: E402
from modeling_2mner import TwoMNERForTokenClassification  # noqa: E402
from processing_2mner import TwoMNERProcessor  # noqa: E402

SCORE_TOLERANCE = 1e-4
TEXTS = [
    "Jordan was seen in Paris with Anne-Marie O'Brien on Monday.",
    "Der FC Bayern München spielt am Samstag in Dortmund gegen Borussia.",
    "L'Amazone coule vers l'Atlantique, dit Victoria Santiago à Lyon.",
    "¿Vive Florencia en Santiago de Chile? Lo dijo El País.",
    "",
]


@dataclass
class Case:
    """A request and its right answer: entities, or the status of an error."""

    name: str
    body: str
    status: int = 200
    entities: Any = None


def good_cases(model: str) -> list[Case]:
    """Texts with images and without, and the pipeline's own answers."""
    ner = pipeline("token-classification", model=model, trust_remote_code=True)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (768, 1024, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    coded = base64.b64encode(buffer.getvalue()).decode()
    batch = [{"text": text, "image": coded if number % 2 else None} for number, text in enumerate(TEXTS)]
    limits = {"min_score": 0.5, "top_k": 2, "stride": 8}
    requests: list[tuple[str, Any, Any, Any, dict[str, Any]]] = [
        *((f"text {number}", text, text, None, {}) for number, text in enumerate(TEXTS)),
        ("image", {"text": TEXTS[0], "image": f"data:image/png;base64,{coded}"}, TEXTS[0], image, {}),
        ("batch", batch, TEXTS, [image if one["image"] else None for one in batch], {}),
        ("parameters", TEXTS[:2], TEXTS[:2], None, limits),
        ("long text", " ".join(TEXTS) * 4, " ".join(TEXTS) * 4, None, {}),
    ]
    return [
        Case(
            name,
            json.dumps({"inputs": inputs, "parameters": parameters}),
            entities=ner(texts, images=images, batch_size=8, **parameters),
        )
        for name, inputs, texts, images, parameters in requests
    ]


def bad_cases(limits: Limits) -> list[Case]:
    """Requests that must be refused; ``hostile.py`` draws many more."""

    def case(name: str, status: int, inputs: Any, **more: Any) -> Case:
        return Case(name, json.dumps({"inputs": inputs, **more}), status)

    return [
        case("oversized body", 413, "a" * (limits.max_text_characters + 1)),
        case("too many texts", 413, ["a"] * (limits.max_texts + 1)),
        case("wrong type", 400, [TEXTS[0], None]),
        case("unknown parameter", 400, "a", parameters={"threshold": 1}),
        case("malformed base64", 422, {"text": "a", "image": "%" * 100}),
        case("no image", 422, {"text": "a", "image": base64.b64encode(bytes(1000)).decode()}),
    ]


def fault(case: Case, answer: Any) -> str | None:
    """What is wrong with an answer, if anything."""
    error = answer.get("error", {}) if isinstance(answer, dict) else None
    if case.entities is not None:
        right = error is None and same(answer, case.entities)
    else:
        right = error is not None and set(error) == {"type", "message", "status"} and error["status"] == case.status
    return None if right else f"{case.name}: {str(answer)[:200]}"


def same(found: Any, expected: Any) -> bool:
    """Whether two JSON values are equal, floats up to a tolerance."""
    if isinstance(expected, float):
        return isinstance(found, (int, float)) and math.isclose(found, expected, abs_tol=SCORE_TOLERANCE)
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[k], expected[k]) for k in expected)
        )
    return found == expected


def send_requests(
    handler: EndpointHandler, cases: dict[str, list[Case]], seconds: float, seed: int
) -> tuple[dict[str, list[float]], Counter[str]]:
    """The requests of one thread until the time is over: latencies in ms of good and bad ones, and wrong answers."""
    generator = random.Random(seed)
    latencies: dict[str, list[float]] = {kind: [] for kind in cases}
    faults: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        kind = generator.choice(list(cases))
        case = generator.choice(cases[kind])
        start = time.perf_counter()
        answer = handler(json.loads(case.body))
        latencies[kind].append(1000 * (time.perf_counter() - start))
        if wrong := fault(case, json.loads(json.dumps(answer))):
            faults[wrong] += 1
    return latencies, faults


def tiny_model(folder: Path) -> str:
    """A model of random weights, in a folder."""
    towers = make_tiny_towers(folder / "towers", [text.split() for text in TEXTS], vocab_size=320)
    torch.manual_seed(0)
    model = TwoMNERForTokenClassification.from_towers(*towers, labels=["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
    with torch.no_grad():
        for parameter in model.parameters():  # large enough for entities to be found
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
    model.save_pretrained(folder / "model")
    TwoMNERProcessor.from_towers(*towers).save_pretrained(folder / "model")
    return str(folder / "model")


def measure(model: str, seconds: float, threads: int) -> dict[str, Any]:
    """Sends requests from several threads for some seconds, in halves between which the memory is read."""
    handler = EndpointHandler(model)
    cases = {"good": good_cases(model), "bad": bad_cases(handler.limits)}
    faults: Counter[str] = Counter()
    latencies: dict[str, list[float]] = {kind: [] for kind in cases}
    memory_mib = []
    start = time.monotonic()
    for half in range(2):
        with ThreadPoolExecutor(threads) as pool:
            seeds = range(half * threads, (half + 1) * threads)
            for found, wrong in pool.map(lambda seed: send_requests(handler, cases, seconds / 2, seed), seeds):
                faults.update(wrong)
                for kind in cases:
                    latencies[kind] += found[kind]
        memory_mib.append(round(psutil.Process().memory_info().rss / 2**20))
    facts: dict[str, Any] = {"seconds": round(time.monotonic() - start, 1), "threads": threads}
    for kind, values in latencies.items():
        facts[kind] = {"requests": len(values)}
        facts[kind] |= {f"p{q}_ms": round(float(np.percentile(values, q)), 1) for q in (50, 90, 99)}
    facts["memory_mib"] = {"half": memory_mib[0], "end": memory_mib[1], "peak": round(peak_mib())}
    return facts | {"wrong_answers": sum(faults.values()), "first_wrong": dict(faults.most_common(5))}


def main() -> None:
    """Measures, prints, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="folder of a trained model; default: a tiny one of random weights")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--output", type=Path, default=RESULTS / "handler.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(arguments.model or tiny_model(Path(scratch)), arguments.seconds, arguments.threads)
    facts = about(["torch", "transformers", "pillow"]) | {"results": result}
    facts["model"] = Path(arguments.model).name if arguments.model else "tiny, random weights"
    write(arguments.output, facts)
    print(json.dumps(result, indent=1))
    sys.exit(int(result["wrong_answers"] > 0))


if __name__ == "__main__":
    main()
