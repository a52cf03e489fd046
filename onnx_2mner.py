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
from huggingface_hub import snapshot_download
from PIL import Image
from torch import nn

TEXT_GRAPH, IMAGE_GRAPH, FUSION_GRAPH = "text.onnx", "image.onnx", "fusion.onnx"
EXPORT_FILE = "onnx.json"
AGAIN = "export the model again: export_onnx(model, processor, {!r})"
PROVIDERS = ["CPUExecutionProvider"]
ONNX_FOLDER = "onnx"  # of a model folder, where `onnx=True` looks if the export is not in the folder itself

# Weights of these operators become int8. Convolutions stay: their integer kernels are slower and cost accuracy.
QUANTIZED_OPERATORS = ("MatMul", "Gemm", "Gather")

# A matrix product whose input has a range of more than this many times its root mean square stays in float32: one
# scale for the whole input, which a few outliers set, leaves too few of the 256 levels for the rest.
MAX_INPUT_RANGE = 50.0

# These ranges are measured on few sentences: outliers sit in the same features whatever the sentence says.
SAMPLE_SENTENCES = (
    "Anna Keller flew from Berlin to New York in May 2019 to meet the board of Siemens.",
    "Im Herbst zog Familie Özdemir nach Köln, wo der FC Sankt Pauli am Samstag 3:1 gewann.",
    "L'été dernier, Aïcha Dubois a visité le musée d'Orsay à Paris avec l'équipe de l'UNESCO.",
    "¿Cuándo volverá José Núñez de Bogotá? El Real Betis juega mañana en Sevilla.",
    "@maria loves #Rome 🙂",
)


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


def export_onnx(model, processor, folder: str | os.PathLike, quantize: bool = False) -> Path:
    """
    Writes a tagger as ONNX graphs: everything up to the CRF, for any number of sentences, tokens and words.

    Args:
        model ([`TwoMNERForTokenClassification`]): in float32.
        processor ([`TwoMNERProcessor`]): its processor, which settles the images' size.
        folder: where to write: the model's own folder or its subfolder `onnx`, where `onnx=True` finds it, or another.
            Made where it does not exist; an earlier export in it is replaced.
        quantize: keep the towers' embeddings and matrix products in int8 (dynamic quantisation); products whose input
            has outliers and the fusion stay in float32. Activations of a batch share one scale, so that a sentence's
            scores depend a little on its neighbours.

    Returns:
        The folder, as [`OnnxEmissions`] takes it.

    Raises:
        ImportError: `onnx`, `onnxscript` or (to quantise) `onnxruntime` is not installed.
        ValueError: the model is not in float32.
        FileExistsError: a file lies there by a name of an export's that is of no export.
        RuntimeError: a tower uses an operation that has no ONNX counterpart.
    """
    for module in ("onnx", "onnxscript", *(["onnxruntime"] if quantize else [])):
        _required(module)
    if model.dtype != torch.float32:
        raise ValueError(f"The model is in {model.dtype}; load it with dtype=torch.float32 to export it.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _facts(folder)["files"] if (folder / EXPORT_FILE).is_file() else {}
    if others := sorted(_export_files(folder) - set(earlier)):
        raise FileExistsError(f"{folder} holds {', '.join(others)}, which no export wrote; remove or move it.")

    was_training = model.training
    model.eval()
    # Written aside, listed, then moved: an interrupted export is never taken for a whole one.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        made, exact = Path(scratch) / "made", Path(scratch) / "exact"
        made.mkdir()
        exact.mkdir()
        try:
            with torch.no_grad():
                for name, graph, inputs, outputs in _graphs(model, processor):
                    rounded = quantize and name != FUSION_GRAPH  # small, and nearest to the tags
                    path = (exact if rounded else made) / name
                    _export(graph, inputs, outputs, path)
                    if rounded:
                        _quantize(path, made / name, _sample(name, processor), _is_large(graph))
        finally:
            model.train(was_training)
        files = {path.name: _hash_of(path) for path in sorted(made.iterdir())}
        facts = {"precision": "int8" if quantize else "float32", "fingerprint": fingerprint(model), "files": files}
        (made / EXPORT_FILE).write_text(json.dumps(facts, indent=2) + "\n")
        for name in _export_files(folder) - set(files):
            (folder / name).unlink()
        for name in (EXPORT_FILE, *files):
            (made / name).replace(folder / name)
    return folder


def fingerprint(model) -> str:
    """A hash of the labels and of all weights."""
    digest = hashlib.sha256(json.dumps(model.config.labels).encode())
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} ".encode())
        digest.update((value.float() if value.is_floating_point() else value).flatten().numpy())
    return digest.hexdigest()


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _export_files(folder: Path) -> set[str]:
    """The names of the graph and weight files in a folder."""
    return {path.name for path in folder.glob("*.onnx*") if path.is_file()}


def _facts(folder: Path) -> dict[str, Any]:
    """The contents of an export's list of files."""
    path = folder / EXPORT_FILE
    if not path.is_file():
        raise ValueError(f"{folder} lacks {EXPORT_FILE}; expected a folder that export_onnx wrote.")
    try:
        facts = json.loads(path.read_text())
        return {"precision": facts["precision"], "fingerprint": facts["fingerprint"], "files": dict(facts["files"])}
    except (ValueError, KeyError, TypeError) as error:
        remedy = f"delete it and *.onnx* beside it, then {AGAIN.format(str(folder))}."
        raise ValueError(f"{path} is damaged ({error!r}); {remedy}") from error


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
        ValueError: the folder's files are not those that the export lists.
    """

    def __init__(self, folder: str | os.PathLike):
        runtime = _required("onnxruntime")
        self.folder = Path(folder)
        facts = _facts(self.folder)
        self.precision: str = facts["precision"]
        self.fingerprint: str = facts["fingerprint"]
        files = facts["files"]
        found = {name: _hash_of(self.folder / name) for name in _export_files(self.folder)}
        if found != files:
            wrong = sorted({name for name, _ in found.items() ^ files.items()})
            raise ValueError(
                f"{self.folder} does not hold what its {EXPORT_FILE} lists: {', '.join(wrong)} (missing, damaged or "
                f"added); {AGAIN.format(str(self.folder))}."
            )

        def session(name):
            return runtime.InferenceSession(self.folder / name, providers=PROVIDERS) if name in files else None

        self._text, self._image, self._fusion = map(session, (TEXT_GRAPH, IMAGE_GRAPH, FUSION_GRAPH))

    def __reduce__(self):  # sessions cannot be pickled, which `datasets.map` does with a pipeline
        return type(self), (self.folder,)

    @classmethod
    def for_model(cls, model, onnx: Any = True) -> "OnnxEmissions":
        """
        The emissions of this very model.

        Args:
            model: the tagger in PyTorch.
            onnx: the folder of its export; `True`: its own folder or repository, or the folder `onnx` in it.

        Raises:
            ValueError: there is no export, its files are not those that it lists, or it is of another model.
        """
        if onnx is True:
            origin = model.config._name_or_path  # empty where the model was built, not loaded: it has no folder
            if not (is_here := os.path.isdir(origin)) and origin:
                revision = getattr(model.config, "_commit_hash", None)
                origin = snapshot_download(origin, revision=revision, allow_patterns="*onnx*")
            places = [Path(origin), Path(origin) / ONNX_FOLDER] if origin else []
            found = [place for place in places if (place / EXPORT_FILE).is_file()]
            if not found:
                where = " or ".join(map(str, places)) or "any folder: the model was not loaded from one"
                target = str(places[-1]) if is_here else ONNX_FOLDER
                raise ValueError(
                    f"onnx=True found no {EXPORT_FILE} in {where}. Export the model once, "
                    f"export_onnx(model, processor, {target!r}), and pass onnx={target!r}."
                )
            onnx = found[0]
        emissions = cls(onnx)
        if emissions.fingerprint != fingerprint(model):
            raise ValueError(
                f"{emissions.folder} is the export of another model than this one (other labels, weights or dtype); "
                f"{AGAIN.format(str(emissions.folder))}."
            )
        return emissions

    def encode_images(self, pixel_values: np.ndarray | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        As the model's: images (num_images, num_channels, height, width) to the outputs of the image tower(s).

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
        input_ids: np.ndarray | torch.Tensor,
        attention_mask: np.ndarray | torch.Tensor,
        word_starts: np.ndarray | torch.Tensor,
        pixel_values: Any = None,
        image_index: np.ndarray | torch.Tensor | None = None,
        image_ids: np.ndarray | torch.Tensor | None = None,
        image_features: np.ndarray | torch.Tensor | None = None,
        global_image_features: np.ndarray | torch.Tensor | None = None,
    ) -> np.ndarray:
        """
        Args:
            input_ids, attention_mask (`(batch_size, sequence_length)`), word_starts (`(batch_size, num_words)`),
            pixel_values (`(num_images, num_channels, height, width)`), image_index (`(batch_size,)`):
                A batch of [`TwoMNERProcessor`], of arrays or tensors; its `image_ids` are not read.
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
    try:
        torch.onnx.export(
            graph.eval(),
            args=tuple(value for value, _ in inputs.values()),
            f=str(path),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple(dict.fromkeys(dims, torch.export.Dim.DYNAMIC) for _, dims in inputs.values()),
            dynamo=True,
            external_data=_is_large(graph),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise RuntimeError(
            f"The graph {path.name} cannot be exported: a tower uses an operation without an ONNX counterpart, or a "
            f"size that depends on the data. {error}"
        ) from error


def _quantize(source: Path, target: Path, sample: dict[str, np.ndarray], large: bool) -> None:
    """Dynamic int8 quantisation of one graph, but for the products that `sample` shows to have outliers."""
    quantization = _required("onnxruntime.quantization")
    quantization.quantize_dynamic(
        source,
        target,
        op_types_to_quantize=list(QUANTIZED_OPERATORS),
        nodes_to_exclude=[name for name, width in _input_ranges(source, sample).items() if width > MAX_INPUT_RANGE],
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        use_external_data_format=large,
        extra_options={"MatMulConstBOnly": True},
    )


def _input_ranges(source: Path, sample: dict[str, np.ndarray]) -> dict[str, float]:
    """Of each product with a constant matrix (by node name): the range of its input, in root mean squares of it."""
    onnx, runtime = _required("onnx"), _required("onnxruntime")
    watched = onnx.load(source, load_external_data=False)
    constants = {weight.name for weight in watched.graph.initializer}
    products = [
        node
        for node in watched.graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in constants and node.input[0] not in constants
    ]
    inputs = list(dict.fromkeys(node.input[0] for node in products))
    known = {output.name for output in watched.graph.output}
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inputs if name not in known
    )
    path = source.with_name(f"watched_{source.name}")  # beside the weights, if they have a file of their own
    onnx.save(watched, path)
    session = runtime.InferenceSession(str(path), providers=PROVIDERS)
    values = dict(zip(inputs, session.run(inputs, sample), strict=True)) if inputs else {}
    widths = {name: float(np.ptp(value) / np.sqrt(np.mean(value**2))) for name, value in values.items()}
    return {node.name: widths[node.input[0]] for node in products}


def _sample(name: str, processor) -> dict[str, np.ndarray]:
    """Inputs of the text or the image graph that resemble real ones."""
    if name == TEXT_GRAPH:
        return {key: value.numpy() for key, value in processor(list(SAMPLE_SENTENCES)).items()}
    colours = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = Image.fromarray(colours).resize((288, 224), Image.Resampling.BICUBIC)  # smooth, as photographs are
    return {"pixel_values": processor.pixel_values(image)[None].numpy()}


def _is_large(graph: nn.Module) -> bool:
    """Whether the weights need a file of their own: one of ONNX holds at most 2 GB."""
    return sum(parameter.numel() for parameter in graph.parameters()) * 4 > 1_900_000_000


def _required(module: str) -> ModuleType:
    """An optional dependency; imported by name, so that loading this file as remote code does not ask for it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"ONNX needs `{module}`: pip install onnx onnxruntime onnxscript") from error


def _array(value: np.ndarray | torch.Tensor, dtype) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.ascontiguousarray(value, dtype=dtype)


__all__ = ["OnnxEmissions", "export_onnx"]
