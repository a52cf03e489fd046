"""Hostile strings, images and requests, every answer checked: ``python benchmarks/reliability/hostile.py``.

A tiny model of random weights reads 10,000 strings, 500 image files and 300 requests, drawn by ``hostile_inputs.py``.
The right answer is known from how an input was made, from a second way to compute it, or from rules that hold for any.
Prints counts. Writes each input with a wrong answer to the folder ``--failures``, and then exits with 1.
"""

import argparse
import base64
import io
import json
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import peak_mib  # noqa: E402
from benchmarks.reliability import hostile_inputs  # noqa: E402
from benchmarks.reliability.hostile_inputs import HIDDEN, INVISIBLE, TEXTS, Body, ImageFile, Text  # noqa: E402
from handler import EndpointHandler, Limits  # noqa: E402
from mmner.data.collator import DataCollatorForMultimodalTokenClassification  # noqa: E402
from mmner.probe.tiny_towers import make_tiny_towers  # noqa: E402
from modeling_2mner import TwoMNERForTokenClassification  # noqa: E402
from pipeline_2mner import TwoMNERPipeline  # noqa: E402
from processing_2mner import TwoMNERProcessor, load_image  # noqa: E402

TOLERANCE = 1e-5  # of a score that is computed in two ways
MAX_MESSAGE_CHARACTERS = 500
STRICT_CPU_S, CPU_S, HUGE_CPU_S, WALL_S = 2.0, 10.0, 30.0, 120.0
MAX_IMAGE_MIB = 1024  # by which one image may raise the peak of memory
CHUNK = 50  # strings that are read together
SECRET = "cannot open /srv/secret/weights.bin"
WATCHED = "subprocess.Popen os.system os.fork os.exec os.posix_spawn socket.connect socket.getaddrinfo".split()
happened: list[str] = []  # processes started, connections made and names looked up, as Python's audit hooks tell them
sys.addaudithook(lambda event, arguments: happened.append(event) if event in WATCHED else None)


class TimeUpError(BaseException):
    """No `Exception`, so that nothing which is tested catches it."""


def ring(*_) -> None:
    """The alarm clock: frees what waits for ever."""
    raise TimeUpError(f"not done after {WALL_S:g} s")


@contextmanager
def limited(cpu_s: float) -> Iterator[list[str]]:
    """The faults of a block, to which are added exceptions, too much time, processes and connections."""
    faults: list[str] = []
    happened.clear()
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    start = time.process_time()
    try:
        yield faults
    except (Exception, TimeUpError) as error:
        faults.append(f"{type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if (seconds := time.process_time() - start) > cpu_s:
        faults.append(f"took {seconds:.1f} s of CPU time, the limit is {cpu_s:g}")
    faults += sorted(set(happened))


class Report:
    """Counts by kind of input; each input with a fault goes to a file."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.counts: dict[tuple[str, str], list[int]] = {}

    def add(self, what: str, kind: str, faults: list[str], given: Any, found: int = 0) -> None:
        """Counts one input, for which `found` entities (or 1 for an open image, an answered request) were found."""
        counts = self.counts.setdefault((what, kind), [0, 0, 0])
        counts[:] = counts[0] + 1, counts[1] + found, counts[2] + bool(faults)
        if faults:
            path = self.folder / f"{what}-{sum(counts[2] for counts in self.counts.values())}"
            self.folder.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".input").write_bytes(given if isinstance(given, bytes) else ascii(given).encode())
            path.with_suffix(".faults").write_text("\n".join(map(ascii, [kind, *faults])) + "\n")
            print(f"WRONG {path.name}, {kind}: {ascii(faults[0])[:300]}")

    def finish(self) -> int:
        """Prints the counts; the number of inputs with a fault."""
        for what, good in (("strings", "entities"), ("images", "opened"), ("requests", "answered")):
            rows = {kind: counts for (name, kind), counts in self.counts.items() if name == what}
            rows["ALL"] = [sum(column) for column in zip(*rows.values(), strict=True)]
            for kind, (number, found, wrong) in rows.items():
                print(f"{what:8} {kind:26} {number:6} tried {found:6} {good:8} {wrong:4} wrong")
            if not rows["ALL"][1]:
                raise RuntimeError(f"No {what} were {good}: nothing has been checked.")
        return sum(wrong for _, _, wrong in self.counts.values())


def make_pipeline(folder: Path) -> TwoMNERPipeline:
    """A tiny model with weights so large that it finds entities and that images change them."""
    sizes = {"vocab_size": 300, "text_width": 16, "max_length_tokens": 64}
    towers = make_tiny_towers(folder, [TEXTS[0].split()], image_size_px=32, image_widths=(8, 16), **sizes)
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    torch.manual_seed(0)
    model = TwoMNERForTokenClassification.from_towers(
        towers[0], towers[1], labels=labels, collaboration="cross_attention"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
    return TwoMNERPipeline(model=model, processor=TwoMNERProcessor.from_towers(*towers), device="cpu")


def same(left: list[dict], right: list[dict], keys=("entity_group", "word", "start", "end")) -> bool:
    """Whether two answers are equal, their scores to `TOLERANCE`."""
    return [[item[key] for key in keys] for item in left] == [[item[key] for key in keys] for item in right] and bool(
        np.allclose([item["score"] for item in left], [item["score"] for item in right], rtol=0, atol=TOLERANCE)
    )


# Strings


def layout_faults(text: str, items: list[dict]) -> Iterator[str]:
    """What no answer to any text may have."""
    end = 0
    for item in items:
        if not end <= item["start"] < item["end"] <= len(text) or text[item["start"] : item["end"]] != item["word"]:
            yield f"offsets of {item}"
        if INVISIBLE.match(item["word"][:1]) or INVISIBLE.match(item["word"][-1:]):
            yield f"a space or an invisible character at an end of {item}"
        if type(item["score"]) is not float or not 0 < item["score"] <= 1:
            yield f"score of {item}"
        end = item["end"]
    if json.dumps(json.loads(coded := json.dumps(items))) != coded:
        yield f"JSON changes {items}"


def label_faults(
    case: Text, offsets: list[tuple[int, int]], labels: list[dict], entities: list[dict]
) -> Iterator[str]:
    """Whether the words are those of the text, and the entities those of the labels."""
    yield from layout_faults(case.text, labels)
    words = [(case.text[start:end], start) for start, end in offsets]
    if case.words is not None and words != case.words:
        yield f"words {words}, expected {case.words}"
    rest = list(case.text)
    for start, end in offsets:
        rest[start:end] = " " * (end - start)
    if lost := [letter for letter in rest if not HIDDEN.match(letter)]:
        yield f"{lost} are in no word"
    spans: list[list] = []
    for before, label in zip([{"entity": "O", "index": 0}, *labels], labels, strict=False):
        if label["entity"].startswith("B-"):
            spans.append([label["entity"][2:], label["start"], label["end"]])
        else:
            if before["entity"][2:] != label["entity"][2:] or before["index"] + 1 != label["index"]:
                yield f"{label} follows {before}"
            spans[-1][2] = label["end"]
    if [[entity["entity_group"], entity["start"], entity["end"]] for entity in entities] != spans:
        yield f"entities {entities}, expected by their labels {spans}"


def check_strings(ner: Any, random: Random, number: int, report: Report) -> None:
    """Each string alone, among others with images and without, by its labels, by its words, and some explained."""
    shown = [None, None, hostile_inputs.noise(1), hostile_inputs.noise(2)]
    cases = list(hostile_inputs.texts(random, number))
    for start in range(0, number, CHUNK):
        chunk = cases[start : start + CHUNK]
        texts, images = [case.text for case in chunk], random.choices(shown, k=len(chunk))
        tokens = [{"tokens": [word for word, _ in case.words or ()]} for case in chunk]
        with limited(CPU_S) as faults:
            together = ner(texts, images=images, batch_size=random.choice([None, 1, 3, 16, 64]))
            labels = ner(texts, images=images, aggregation_strategy="none")
            split = [row | {"image": image} for row, image in zip(tokens, images, strict=True)]
            labels_of_words = ner(split, aggregation_strategy="none")
        if faults:
            report.add("strings", "one of several", faults, texts)
            continue
        answers = zip(chunk, images, together, labels, labels_of_words, strict=True)
        for case, image, found, words, of_words in answers:
            with limited(CPU_S) as faults:
                faults += layout_faults(case.text, found)
                faults += label_faults(case, ner.processor.split_words(case.text)[1], words, found)
                if not same(alone := ner(case.text, images=image), found):
                    faults.append(f"alone {alone}, among others {found}")
                if case.words is not None and not same(words, of_words, ("entity", "word", "index")):
                    faults.append(f"as a string {words}, as words {of_words}")
                if image is not None and random.random() < 0.2:
                    explained = ner.explain(case.text, image)
                    if not same([entity.entity for entity in explained.entities], found):
                        faults.append(f"explained {explained.entities}, expected {found}")
                    if not same(explained.entities_without_image, ner(case.text)):
                        faults.append("explained without the image, it is another text than the text alone")
            report.add("strings", case.kind, faults, case.text, len(found))


def check_other_strings(ner: Any, random: Random, number: int, report: Report) -> None:
    """Lists of words, empty and blank ones too; and strings of megabytes."""
    for _ in range(number):
        words = random.choices(["Radbury", "Bay", "l'", "東京", "🙂", "", " ", "\u200b"], k=random.randint(1, 9))
        with limited(CPU_S) as faults:
            faults += layout_faults(" ".join(words), ner({"tokens": words}))
        report.add("strings", "list of words", faults, words)
    for text in hostile_inputs.HUGE[: number // 20]:
        with limited(HUGE_CPU_S) as faults:
            faults += layout_faults(text, ner(text))
        report.add("strings", "huge", faults, (text[:9], len(text)))


# Images


def check_image(ner: Any, handler: Any, collator: Any, file: ImageFile, path: str) -> tuple[list[str], bool]:
    """One file through every door: the faults, and whether it was opened."""
    text, coded = TEXTS[0], base64.b64encode(file.content).decode() or path
    words = ner.processor.split_words(text)[0]
    doors = {
        "handler": lambda: handler({"inputs": {"text": text, "image": coded}}),
        "load_image": lambda: load_image(path),
        "pipeline": lambda: ner(text, images=path),
        "bytes": lambda: ner(text, images=file.content or path),
        "explain": lambda: ner.explain(text, path),
        "processor": lambda: ner.processor(text, images=path),
        "collator": lambda: collator([{"tokens": words, "labels": [0] * len(words), "image": path}]),
    }
    wrong, answers = [], {}
    for door, call in list(doors.items())[: 1 if file.is_costly else None]:
        message, unreadable = None, collator.unreadable_images
        with limited(STRICT_CPU_S if door == "handler" else CPU_S) as faults:
            try:
                answers[door] = call()
            except (ValueError, TypeError) as error:
                message = str(error)
        if collator.unreadable_images > unreadable:
            del answers[door]
        elif isinstance(answers.get(door), dict) and "error" in answers[door]:
            refusal = answers.pop(door)["error"]
            message = refusal["message"] if refusal["type"] == "invalid_image" else str(refusal)
        if message is not None and (len(message) > MAX_MESSAGE_CHARACTERS or "mage" not in message):
            faults.append(f"message of {len(message)} characters: {message[:200]}")
        wrong += [f"{door}: {fault}" for fault in faults]
    if wrong or file.is_costly:
        return wrong, bool(answers)
    refused = doors.keys() - answers.keys()
    right: list[set] = [set(), {"handler"}, set(doors)]  # the handler may refuse what others open
    if refused not in (right if file.opens is None else right[:1] if file.opens else right[2:]):
        return [f"opened by {sorted(answers)}, refused by {sorted(refused)}"], True
    with limited(CPU_S) as faults:
        faults += [f"{door}: another image" for door in (other_images(ner, file, answers) if answers else ())]
    return faults, bool(answers)


def other_images(ner: Any, file: ImageFile, answers: dict) -> Iterator[str]:
    """The doors behind which the image is not what the file holds, or not what it is behind another."""
    levels = np.asarray(answers["load_image"])
    if file.levels is not None and (
        levels.shape != file.levels.shape or np.abs(levels - file.levels.astype(float)).max() > file.tolerance
    ):
        yield "load_image"
    if not np.array_equal(levels, answers["explain"].image):
        yield "explain"
    if not torch.equal(answers["processor"]["pixel_values"], answers["collator"]["pixel_values"]):
        yield "collator"
    expected = ner(TEXTS[0], images=answers["load_image"])
    found = {door: answers[door] for door in ("pipeline", "bytes", "handler") if door in answers}
    found["entities of explain"] = [entity.entity for entity in answers["explain"].entities]
    yield from (door for door in found if not same(found[door], expected))
    with torch.no_grad():
        spans = ner.decode(list(ner.model(**answers["processor"]).logits))[0]
    by_hand = np.exp([span.log_prob for span in spans])
    if not np.allclose(by_hand, [entity["score"] for entity in expected], rtol=0, atol=TOLERANCE):
        yield "processor and model"


def check_images(ner: Any, random: Random, number: int, report: Report, folder: Path) -> None:
    """Paths that lead to no file, and files of all kinds under any name."""
    handler, collator = (
        EndpointHandler(ner=ner, limits=Limits()),
        DataCollatorForMultimodalTokenClassification(ner.processor),
    )
    os.mkfifo(folder / "fifo.png")
    paths = [str(folder / "fifo.png"), str(folder), "missing.png", "/dev/zero", "a\0b.png", "x" * 5000]
    cases = [(ImageFile("path to no file", b"", False), path) for path in paths]
    for place, file in enumerate(hostile_inputs.broken_images(random, number - len(paths))):
        suffix = random.choice([".png", ".jpg", ".jpeg", ".gif", ".webp", ".eps", ".pdf", ".svg", ".txt", ""])
        cases.append((file, str(folder / f"{place}{suffix}")))
        Path(cases[-1][1]).write_bytes(file.content)
    for file, path in cases:
        before = peak_mib()
        faults, is_open = check_image(ner, handler, collator, file, path)
        if peak_mib() - before > MAX_IMAGE_MIB:
            faults.append(f"took {peak_mib() - before:.0f} MiB more than any before it")
        report.add("images", file.kind, faults, file.content or path, is_open)


# Requests


def body_faults(ner: Any, body: Body, answer: Any) -> Iterator[str]:
    """Whether a request is answered as by the pipeline, or by an error that is about nothing but the request."""
    json.dumps(answer)
    if isinstance(answer, list):
        if body.answers is False:
            yield f"answered {str(answer)[:200]}"
            return
        images = [None if image is None else Image.open(io.BytesIO(image)) for image in body.images]
        expected = ner(body.texts, images=images, **(body.data.get("parameters") or {}))
        found = answer if isinstance(body.data["inputs"], list) else [answer]
        keys = sorted({key for items in expected for item in items for key in item} - {"score", "alternatives"})
        if len(found) != len(expected) or not all(same(*pair, keys) for pair in zip(found, expected, strict=True)):
            yield f"answered {found}, expected {expected}"
        return
    error = answer["error"]
    if body.answers or answer.keys() != {"error"} or error.keys() != {"type", "message", "status"}:
        yield f"answered {str(answer)[:200]}"
    elif not 400 <= error["status"] < 500 or len(error["message"]) > MAX_MESSAGE_CHARACTERS:
        yield f"status {error['status']}, {len(error['message'])} characters: {error['message'][:200]}"
    elif re.search(r"Traceback|\.py\b| at 0x|/tmp/|site-packages", error["message"]):
        yield f"about the inside: {error['message']}"


def check_bodies(ner: Any, random: Random, number: int, report: Report) -> None:
    """Requests in turn, URLs of a site of this machine that must see no connection, and a pipeline that breaks."""
    handler: Any = EndpointHandler(ner=ner, limits=Limits())
    with socket.create_server(("127.0.0.1", 0)) as site:
        site.setblocking(False)
        for body in hostile_inputs.bodies(random, number, site.getsockname()[1]):
            answer = None
            with limited(CPU_S) as faults:
                answer = handler(json.loads(json.dumps(body.data)))
                faults += body_faults(ner, body, answer)
            with suppress(BlockingIOError):
                site.accept()
                faults.append("connected to an address that the request names")
            report.add("requests", body.kind, faults, body.data, isinstance(answer, list))

    for kind in (ValueError, TypeError, KeyError, RuntimeError, OSError, MemoryError):
        with limited(CPU_S) as faults, patch.object(ner, "decode", side_effect=kind(SECRET)):
            answer = handler({"inputs": "a"})
            if answer["error"]["status"] != 500 or SECRET in str(answer):
                faults.append(str(answer))
        report.add("requests", "pipeline that breaks", faults, kind.__name__)


def main(argv: list[str] | None = None) -> int:
    """Tries all; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--strings", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--bodies", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--failures", type=Path, default=ROOT / "outputs" / "hostile")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    random, report = Random(arguments.seed), Report(arguments.failures)
    with tempfile.TemporaryDirectory() as scratch:
        ner = make_pipeline(Path(scratch) / "towers")
        check_strings(ner, random, arguments.strings * 19 // 20, report)
        check_other_strings(ner, random, arguments.strings - arguments.strings * 19 // 20, report)
        check_images(ner, random, arguments.images, report, Path(scratch))
        check_bodies(ner, random, arguments.bodies, report)
    return int(report.finish() > 0)


if __name__ == "__main__":
    logging.disable()  # of images that do not open
    sys.exit(main())
