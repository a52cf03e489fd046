"""
2M-NER on ONNX Runtime: the emissions as three graphs (text, image, fusion); the CRF decodes as everywhere.

Rows without an image use the text graph alone.
"""

import hashlib
import importlib
import json
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

TEXT_GRAPH, IMAGE_GRAPH, FUSION_GRAPH = "text.onnx", "image.onnx", "fusion.onnx"
EXPORT_FILE = "onnx.json"
PROVIDERS = ["CPUExecutionProvider"]
ONNX_FOLDER = "onnx"  # of a model folder, where `onnx=True` looks if the export is not in the folder itself
MAX_FILE_BYTES = 1_900_000_000  # a file of ONNX holds 2 GB at most; larger weights lie in a file of their own


class TextGraph(nn.Module):
    """Sentences to word vectors, and to their emissions without an image."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, word_starts):
        """(B, S), (B, S), (B, W) int64 -> word vectors (B, W, H), logits (B, W, K)."""
        outputs = self.model.model(
            input_ids=input_ids, attention_mask=attention_mask, word_starts=word_starts, return_dict=True
        )
        words = outputs.text_word_states
        return words, self.model.emissions_of_states(words, word_starts >= 0).logits


class ImageGraph(nn.Module):
    """Distinct images to the vectors of the image tower(s)."""

    def __init__(self, model):
        super().__init__()
        self.model = model.model

    def forward(self, pixel_values):
        """(N, C, H, W) -> (N, P, Dv) and, with a second tower, (N, 1, Dg)."""
        return tuple(states for states in self.model.encode_images(pixel_values) if states is not None)


class FusionGraph(nn.Module):
    """Word vectors and an image for each row to emissions."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, word_states, word_starts, image_states, global_states=None):
        """(B, W, H), (B, W), (B, P, Dv) [, (B, 1, Dg)] -> logits (B, W, K)."""
        index = torch.arange(len(word_states), device=word_states.device)
        return self.model.emissions_of_states(word_states, word_starts >= 0, image_states, global_states, index).logits


def export_onnx(model, processor, folder: str | os.PathLike) -> Path:
    """
    Writes a tagger as ONNX graphs: everything up to the CRF, for any number of sentences, tokens and words.

    Args:
        model ([`TwoMNERForTokenClassification`]): in float32.
        processor ([`TwoMNERProcessor`]): its processor, which settles the images' size.
        folder: where to write: the model's own folder or its subfolder `onnx`, where `onnx=True` finds it, or another.
            Made where it does not exist; an earlier export in it is replaced.

    Returns:
        The folder, as [`OnnxEmissions`] takes it.

    Raises:
        ImportError: `onnx` or `onnxscript` is not installed.
        ValueError: the model is not in float32.
        FileExistsError: the folder holds ONNX files that no export wrote.
        torch.onnx.OnnxExporterError: a tower uses an operation that has no ONNX counterpart.
    """
    _required("onnx")
    _required("onnxscript")
    if model.dtype != torch.float32:
        raise ValueError(f"The model is in {model.dtype}; load it with dtype=torch.float32 to export it.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _facts(folder)["files"] if (folder / EXPORT_FILE).is_file() else set()
    if others := sorted({path.name for path in folder.glob("*.onnx*") if path.is_file()} - earlier):
        raise FileExistsError(f"{folder} holds {', '.join(others)}, which no export wrote; remove or move it.")

    was_training = model.training
    model.eval()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        try:
            with torch.no_grad():
                for name, graph, inputs, outputs in _graphs(model, processor):
                    _export(graph, inputs, outputs, Path(scratch) / name)
        finally:
            model.train(was_training)
        files = {path.name for path in Path(scratch).iterdir()}

        def write_facts(exported: str | None, files: set[str]) -> None:
            path = Path(scratch) / EXPORT_FILE
            path.write_text(json.dumps({"fingerprint": exported, "files": sorted(files)}, indent=2) + "\n")
            path.replace(folder / EXPORT_FILE)

        write_facts(None, earlier | files)  # an export that is broken off from here on is not taken for a whole one
        for name in earlier - files:
            (folder / name).unlink(missing_ok=True)
        for name in files:
            (Path(scratch) / name).replace(folder / name)
        write_facts(fingerprint(model), files)
    return folder


def fingerprint(model) -> str:
    """A hash of the labels and of all weights."""
    digest = hashlib.sha256(json.dumps(model.config.labels).encode())
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} ".encode())
        digest.update((value.float() if value.is_floating_point() else value).flatten().numpy())
    return digest.hexdigest()


def _facts(folder: Path) -> dict[str, Any]:
    """The fingerprint of the exported model (`None`: the export was broken off), and the files of the export."""
    path = folder / EXPORT_FILE
    if not path.is_file():
        raise ValueError(f"{folder} lacks {EXPORT_FILE}; expected a folder that export_onnx wrote.")
    facts = json.loads(path.read_text())
    return {"fingerprint": facts["fingerprint"], "files": set(facts["files"])}


def _advice(folder: Path) -> str:
    return f"export the model again: export_onnx(model, processor, {str(folder)!r})"


class OnnxEmissions:
    """
    The emissions of an exported tagger, computed by ONNX Runtime.

    ```python
    >>> emissions = OnnxEmissions(export_onnx(model, processor, "tagger/onnx"))
    >>> batch = processor(["Jordan was seen in Paris."])
    >>> logits = emissions(**batch)  # (1, 6, num_labels)
    >>> model.crf.decode(torch.from_numpy(logits), batch["word_starts"] >= 0)
    ```

    Args:
        folder: what `export_onnx` wrote.

    Raises:
        ImportError: `onnxruntime` is not installed.
        ValueError: the folder holds no whole export.
    """

    def __init__(self, folder: str | os.PathLike):
        runtime = _required("onnxruntime")
        self.folder = Path(folder)
        facts = _facts(self.folder)
        self.fingerprint: str = facts["fingerprint"]
        missing = sorted(name for name in facts["files"] if not (self.folder / name).is_file())
        if missing or self.fingerprint is None:
            lacks = f"it lacks {', '.join(missing)}" if missing else "it was broken off"
            raise ValueError(f"The export in {self.folder} is not whole ({lacks}); {_advice(self.folder)}.")

        def session(name):
            path = str(self.folder / name)
            return runtime.InferenceSession(path, providers=PROVIDERS) if name in facts["files"] else None

        self._text, self._image, self._fusion = map(session, (TEXT_GRAPH, IMAGE_GRAPH, FUSION_GRAPH))

    @classmethod
    def for_model(cls, model, onnx: Any = True) -> "OnnxEmissions":
        """
        The emissions of this very model.

        Args:
            model: the tagger in PyTorch.
            onnx: the folder of its export; `True`: the folder of its weights, or the folder `onnx` in it.

        Raises:
            ValueError: there is no whole export, or it is of another model.
        """
        if onnx is True:
            origin = model.config._name_or_path  # empty where the model was built, not loaded: it has no folder
            places = [Path(origin), Path(origin) / ONNX_FOLDER] if origin else []
            onnx = next((place for place in places if (place / EXPORT_FILE).is_file()), "")
            if not onnx:
                target = str(places[-1]) if places and places[0].is_dir() else ONNX_FOLDER
                raise ValueError(
                    f"onnx=True found no {EXPORT_FILE} in the model's folder ({origin or 'it has none'}). Export the "
                    f"model once, export_onnx(model, processor, {target!r}), and pass onnx={target!r}."
                )
        emissions = cls(onnx)
        if emissions.fingerprint != fingerprint(model):
            raise ValueError(
                f"{emissions.folder} is the export of another model than this one (other labels, weights or dtype); "
                f"{_advice(emissions.folder)}."
            )
        return emissions

    def encode_images(self, pixel_values: np.ndarray | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        As the model's.

        Raises:
            ValueError: images of another size than the processor gave at the export.
        """
        pixels = _array(pixel_values, np.float32)
        expected = tuple(self._image.get_inputs()[0].shape[1:])
        if pixels.shape[1:] != expected:
            raise ValueError(
                f"`pixel_values` has shape {pixels.shape}; expected (num_images, {', '.join(map(str, expected))}), "
                "the size that the processor had at the export."
            )
        states = [torch.from_numpy(found) for found in self._image.run(None, {"pixel_values": pixels})]
        return states[0], states[1] if len(states) > 1 else None

    def __call__(
        self,
        input_ids,
        attention_mask,
        word_starts,
        pixel_values=None,
        image_index=None,
        image_ids=None,
        image_features=None,
        global_image_features=None,
    ) -> np.ndarray:
        """
        Args:
            input_ids, attention_mask, word_starts, pixel_values, image_index, image_ids: a batch of
                [`TwoMNERProcessor`], of arrays or tensors.
            image_features, global_image_features: outputs of `encode_images`, instead of `pixel_values`.

        Returns:
            Emissions of shape (batch_size, num_words, num_labels), float32.
        """
        starts = _array(word_starts, np.int64)
        text = {"input_ids": input_ids, "attention_mask": attention_mask, "word_starts": starts}
        states, logits = self._text.run(None, {name: _array(value, np.int64) for name, value in text.items()})
        if image_index is None or self._fusion is None:
            return logits
        index = _array(image_index, np.int64)
        rows = np.flatnonzero(index >= 0)
        if not len(rows):
            return logits
        images = [image_features, global_image_features]
        if image_features is None:
            images = list(self.encode_images(pixel_values))
        values = [states[rows], starts[rows]]
        values += [_array(of_all, np.float32)[index[rows]] for of_all in images if of_all is not None]
        names = [graph_input.name for graph_input in self._fusion.get_inputs()]
        logits[rows] = self._fusion.run(None, dict(zip(names, values, strict=True)))[0]
        return logits


def _graphs(model, processor):
    """Name, module, example inputs (name -> tensor, dynamic dimensions) and output names of each graph to export."""
    device = model.device
    # Sizes that differ from each other, and two rows: the exporter takes a size of one for a constant.
    starts = torch.tensor([[1, 2, 4, 5, 6], [1, 3, 4, -1, -1]], device=device)
    tokens = torch.ones(2, 9, dtype=torch.int64, device=device)
    mask = tokens.clone()
    mask[1, 6:] = 0
    inputs = {"input_ids": (tokens, (0, 1)), "attention_mask": (mask, (0, 1)), "word_starts": (starts, (0, 1))}
    text = TextGraph(model)
    yield TEXT_GRAPH, text, inputs, ["word_states", "logits"]
    if model.config.collaboration == "none":
        return
    pixels = processor.pixel_values(Image.new("RGB", (64, 64))).to(device).expand(2, -1, -1, -1).contiguous()
    states = ImageGraph(model)(pixels)
    names = ["image_states", "global_states"][: len(states)]
    yield IMAGE_GRAPH, ImageGraph(model), {"pixel_values": (pixels, (0,))}, names
    words = torch.zeros(2, 5, model.classifier.in_features, device=device)
    inputs = {"word_states": (words, (0, 1)), "word_starts": (starts, (0, 1))}
    inputs |= {name: (value, (0,)) for name, value in zip(names, states, strict=True)}
    yield FUSION_GRAPH, FusionGraph(model), inputs, ["logits"]


def _export(graph: nn.Module, inputs: dict, outputs: list[str], path: Path) -> None:
    """Writes one graph."""
    num_bytes = 4 * sum(parameter.numel() for parameter in graph.parameters())
    torch.onnx.export(
        graph.eval(),
        args=tuple(value for value, _ in inputs.values()),
        f=str(path),
        input_names=list(inputs),
        output_names=outputs,
        dynamic_shapes=tuple(dict.fromkeys(dims, torch.export.Dim.DYNAMIC) for _, dims in inputs.values()),
        dynamo=True,
        external_data=num_bytes > MAX_FILE_BYTES,
        verbose=False,
    )


def _required(module: str) -> ModuleType:
    """An optional dependency; imported by name, so that loading this file as remote code does not ask for it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"`{module}` is not installed, and ONNX export and inference need it: "
            "pip install onnx onnxruntime onnxscript."
        ) from error


def _array(value: np.ndarray | torch.Tensor, dtype) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.ascontiguousarray(value, dtype=dtype)


__all__ = ["OnnxEmissions", "export_onnx"]
