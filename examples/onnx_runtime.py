"""
Export a model to ONNX in int8 and predict with ONNX Runtime: smaller, and faster on a CPU.

    python examples/onnx_runtime.py --output outputs/onnx
"""

import argparse
import time
from pathlib import Path

from transformers import pipeline

from onnx_2mner import export_onnx

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="models/2m-ner-small")
parser.add_argument("--output", default="outputs/onnx")
given = parser.parse_args()

ner = pipeline("token-classification", model=given.model, trust_remote_code=True, dtype="float32", device="cpu")
export_onnx(ner.model, ner.processor, given.output, quantize=True)
light = pipeline("token-classification", model=given.model, trust_remote_code=True, onnx=given.output, device="cpu")

texts = ["Nora Quist opened a bakery in Rivermouth.", "Nordwerk AG baut ein neues Werk in Bremen."] * 20
for name, pipe in (("PyTorch", ner), ("ONNX Runtime, int8", light)):
    pipe(texts[0])
    start = time.perf_counter()
    entities = pipe(texts)
    print(f"{name}: {time.perf_counter() - start:.2f} s", [entity["word"] for entity in entities[0]])
size = sum(path.stat().st_size for path in Path(given.output).iterdir())
print(f"{size / 1e6:.0f} MB in {given.output}")
