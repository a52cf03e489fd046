"""
2M-NER on ONNX Runtime: the emissions as three graphs (words, images, their fusion), and the CRF's decoder in numpy.

A tagger without images, or a row without one, costs the first graph alone; a distinct image is encoded once.
"""

import hashlib
import importlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

try:
    from .crf_2mner import LinearChainCRF
except ImportError:
    pass

TEXT_GRAPH, IMAGE_GRAPH, FUSION_GRAPH = "text.onnx", "image.onnx", "fusion.onnx"
CRF_FILE, EXPORT_FILE = "crf.npz", "onnx.json"
ONNX_FOLDER = "onnx"  # of a model folder, where `onnx=True` looks if the export is not in the folder itself

# As crf_2mner.FORBIDDEN: the score of a step that the constraints rule out.
FORBIDDEN = -1e30

# Weights of these operators become int8. Convolutions stay: their integer kernels are slower and cost accuracy.
QUANTIZED_OPERATORS = ("MatMul", "Gemm", "Gather")

# A matrix product whose input has a range of more than this many times its root mean square stays in float32: one
# scale for the whole input, which a few outliers set, leaves too few of the 256 levels for the rest.
WIDEST_RANGE = 50.0

# What these ranges are measured on: enough, since outliers sit in the same features whatever the sentence says.
SAMPLE_SENTENCES = (
    "Anna Keller flew from Berlin to New York in May 2019 to meet the board of Siemens.",
    "Im Herbst zog Familie Özdemir nach Köln, wo der FC Sankt Pauli am Samstag 3:1 gewann.",
    "L'été dernier, Aïcha Dubois a visité le musée d'Orsay à Paris avec l'équipe de l'UNESCO.",
    "¿Cuándo volverá José Núñez de Bogotá? El Real Betis juega mañana en Sevilla.",
    "@maria loves #Rome 🙂 https://example.org/a1b2",
    "12,5 % (2020/21) – »Faust«, Act II",
    "No.",
)


class TextGraph(nn.Module):
    """Sentences to word vectors, and to the emissions that they have without an image."""

    def __init__(self, model):
        super().__init__()
        self.tower = model.model.text_model
        self.collaboration = model.model.collaboration
        self.classifier = model.classifier

    def forward(self, input_ids, attention_mask, word_starts):
        """(B, S), (B, S), (B, W) int64 -> word vectors (B, W, H), logits (B, W, K)."""
        pieces = self.tower(input_ids=input_ids, attention_mask=attention_mask, return_dict=True).last_hidden_state
        words = gather_words(pieces, word_starts)
        fused = words if self.collaboration is None else self.collaboration.text_only(words).word_states
        return words, self.classifier(fused * (word_starts >= 0)[..., None])


class ImageGraph(nn.Module):
    """Distinct images to the vectors of the image tower(s)."""

    def __init__(self, model):
        super().__init__()
        self.model = model.model

    def forward(self, pixel_values):
        """(N, C, H, W) -> (N, P, Dv) and, with a second tower, (N, 1, Dg)."""
        ids = torch.ones_like(pixel_values[:, 0, 0, 0], dtype=torch.int64)
        return tuple(states for states in self.model.encode_images(pixel_values, ids) if states is not None)


class FusionGraph(nn.Module):
    """Word vectors and an image each row to emissions."""

    def __init__(self, model):
        super().__init__()
        self.collaboration = model.model.collaboration
        self.classifier = model.classifier

    def forward(self, word_states, word_starts, image_states, global_states=None):
        """(B, W, H), (B, W), (B, P, Dv) [, (B, 1, Dg)] -> logits (B, W, K)."""
        mask = word_starts >= 0
        has_image = torch.ones_like(word_starts[:, 0], dtype=torch.bool)
        fused = self.collaboration(word_states, mask, image_states, global_states, has_image)
        logits = self.classifier(fused.word_states * mask[..., None])
        return self.collaboration.weigh(logits, fused, mask, has_image)[0]


def export_onnx(model, processor, folder: str | os.PathLike, quantize: bool = False) -> Path:
    """
    Writes a tagger as ONNX graphs: everything up to the CRF, any number of sentences, pieces and words; and its CRF.

    Args:
        model ([`TwoMNERForTokenClassification`]): in float32.
        processor ([`TwoMNERProcessor`]): its processor, which settles the images' size.
        folder: where to write: the model's own folder or its subfolder `onnx`, where `onnx=True` finds it, or another.
            Made where it does not exist; an earlier export in it is replaced.
        quantize: keep the towers' embeddings and matrix products in int8, with activations' scales computed as they
            come (dynamic quantisation); products whose input has outliers and the fusion stay in float32. A scale is
            that of a whole batch, so that a sentence's scores depend a little on its neighbours.

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
    # Written aside, then listed, then moved: an export that is broken off is never taken for a whole one.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        made, exact = Path(scratch) / "made", Path(scratch) / "exact"
        made.mkdir(), exact.mkdir()
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
        NumpyCRF.from_model(model).save(made / CRF_FILE)
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
    """The names of files in a folder that could be an export's, but for its list of them."""
    return {path.name for path in (*folder.glob("*.onnx*"), *folder.glob(CRF_FILE)) if path.is_file()}


def _facts(folder: Path) -> dict[str, Any]:
    """What an export says of itself."""
    path = folder / EXPORT_FILE
    if not path.is_file():
        raise ValueError(f"{folder} lacks {EXPORT_FILE}; expected a folder that export_onnx wrote.")
    try:
        facts = json.loads(path.read_text())
        return {"precision": facts["precision"], "fingerprint": facts["fingerprint"], "files": dict(facts["files"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}); delete it, {CRF_FILE} and *.onnx* beside it, then {_command(folder)}."
        ) from error


def _command(folder: Path | str) -> str:
    """What to type for an export."""
    return f"write the export anew: export_onnx(model, processor, {str(folder)!r})"


class OnnxEmissions:
    """
    The emissions of an exported tagger, computed by ONNX Runtime.

    ```python
    >>> emissions = OnnxEmissions(export_onnx(model, processor, "tagger/onnx"))
    >>> batch = processor(["Jordan was seen in Paris."])
    >>> logits = emissions(**batch)  # (1, 6, num_labels)
    >>> emissions.crf.decode(logits, batch["word_starts"].numpy() >= 0)
    ```

    Args:
        folder: what `export_onnx` wrote.
        threads: threads of one operation. Default: ONNX Runtime's choice, one a core.
        providers: execution providers of ONNX Runtime in order of preference.

    Raises:
        ImportError: `onnxruntime` is not installed.
        ValueError: the folder's files are not those that the export lists.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ):
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
                f"added); {_command(self.folder)}."
            )
        self.crf = NumpyCRF.load(self.folder / CRF_FILE)
        options = runtime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads

        def session(name):
            path = str(self.folder / name)
            return runtime.InferenceSession(path, options, providers=list(providers)) if name in files else None

        self._text, self._image, self._fusion = map(session, (TEXT_GRAPH, IMAGE_GRAPH, FUSION_GRAPH))

    @classmethod
    def for_model(cls, model, onnx: bool | str | os.PathLike = True, **options: Any) -> "OnnxEmissions":
        """
        The emissions of this very model.

        Args:
            model: the tagger in PyTorch.
            onnx: the folder of its export; `True`: the folder of its weights, or the folder `onnx` in it.
            **options: as for the class.

        Raises:
            ValueError: there is no export, its files are not those that it lists, or it is of another model.
        """
        if onnx is True:
            origin = model.config._name_or_path  # empty where the model was built, not loaded: it has no folder
            places = [Path(origin), Path(origin) / ONNX_FOLDER] if origin else []
            onnx = next((place for place in places if (place / EXPORT_FILE).is_file()), None)
            if onnx is None:
                where = " or ".join(map(str, places)) or "any folder: the model was not loaded from one"
                target = str(places[-1]) if places and places[0].is_dir() else ONNX_FOLDER
                raise ValueError(
                    f"onnx=True found no {EXPORT_FILE} in {where}. Export the model once, "
                    f"export_onnx(model, processor, {target!r}), and pass onnx={target!r}."
                )
        emissions = cls(onnx, **options)
        if emissions.fingerprint != fingerprint(model):
            raise ValueError(
                f"{emissions.folder} is the export of another model than this one (other labels, weights or dtype); "
                f"{_command(emissions.folder)}."
            )
        return emissions

    def __call__(
        self,
        input_ids: np.ndarray | torch.Tensor,
        word_starts: np.ndarray | torch.Tensor,
        attention_mask: np.ndarray | torch.Tensor | None = None,
        pixel_values: np.ndarray | torch.Tensor | None = None,
        image_ids: np.ndarray | torch.Tensor | None = None,
        text_attention_mask: np.ndarray | torch.Tensor | None = None,
    ) -> np.ndarray:
        """
        Args:
            input_ids, attention_mask (`(batch_size, sequence_length)`), word_starts (`(batch_size, num_words)`),
            pixel_values (`(batch_size, num_channels, height, width)`), image_ids (`(batch_size,)`):
                A batch of [`TwoMNERProcessor`], of arrays or tensors.
            text_attention_mask: not read; the model, too, reads it in training alone.

        Returns:
            Emissions of shape (batch_size, num_words, num_labels), float32.

        Raises:
            ValueError: images of another size than the export's, or an input of another batch size.
        """
        input_ids, word_starts = _array(input_ids, np.int64), _array(word_starts, np.int64)
        if attention_mask is None:
            attention_mask = np.ones_like(input_ids)
        rows, words = word_starts.shape
        if not rows or not words:
            return np.zeros((rows, words, len(self.crf.start)), dtype=np.float32)
        states, logits = self._text.run(
            None,
            {
                "input_ids": input_ids,
                "attention_mask": _array(attention_mask, np.int64),
                "word_starts": word_starts,
            },
        )
        if pixel_values is None or self._fusion is None:
            return logits
        pixels = _array(pixel_values, np.float32)
        ids = np.arange(1, rows + 1) if image_ids is None else _array(image_ids, np.int64)
        expected = tuple(self._image.get_inputs()[0].shape[1:])
        if len(pixels) != rows or ids.shape != (rows,) or pixels.shape[1:] != expected:
            raise ValueError(
                f"pixel_values have shape {pixels.shape} and image_ids {ids.shape}; expected {(rows, *expected)} and "
                f"{(rows,)}: one image a row, of the size that the processor had at the export."
            )
        shown = np.flatnonzero(ids)  # rows with an image
        if not len(shown):
            return logits
        _, first, slots = np.unique(ids[shown], return_index=True, return_inverse=True)
        images = self._image.run(None, {"pixel_values": pixels[shown[first]]})  # of each distinct image
        names = [graph_input.name for graph_input in self._fusion.get_inputs()]
        values = [states[shown], word_starts[shown], *(image[slots] for image in images)]
        logits[shown] = self._fusion.run(None, dict(zip(names, values, strict=True)))[0]
        return logits

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As the PyTorch model: a batch of tensors in, `{"logits": (batch_size, num_words, num_labels)}` out."""
        return {"logits": torch.from_numpy(self(**batch))}


class NumpyCRF:
    """
    The decoder of [`crf_2mner.LinearChainCRF`] without PyTorch: the same tags and probabilities.

    Args:
        start: score of each tag at the first word, shape (K,).
        transitions: score of each step, shape (K, K), `[from, to]`.
        end: score of each tag at the last word, shape (K,). Forbidden steps have the score `FORBIDDEN`.
    """

    def __init__(self, start: np.ndarray, transitions: np.ndarray, end: np.ndarray):
        if transitions.shape != (len(start), len(start)) or end.shape != start.shape or start.ndim != 1:
            raise ValueError(
                f"Got scores of shapes {start.shape}, {transitions.shape} and {end.shape}; expected (K,), (K, K) and "
                "(K,)."
            )
        self.start, self.transitions, self.end = start, transitions, end

    @classmethod
    def from_model(cls, model) -> "NumpyCRF":
        """The CRF of a tagger, its constraints included."""
        crf = model.crf
        start, transitions, end = (
            parameter.detach().float().cpu().numpy().copy()
            for parameter in (crf.start_transitions, crf.transitions, crf.end_transitions)
        )
        if crf.allowed_start is not None:
            start[~crf.allowed_start.cpu().numpy()] = FORBIDDEN
            transitions[~crf.allowed_transitions.cpu().numpy()] = FORBIDDEN
        return cls(start, transitions, end)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "NumpyCRF":
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["start"], arrays["transitions"], arrays["end"])

    def save(self, path: str | os.PathLike) -> None:
        """Writes the scores as an `.npz` file."""
        np.savez(path, start=self.start, transitions=self.transitions, end=self.end)

    def decode(self, emissions: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """
        The most probable tag sequences (Viterbi), int64 of shape (B, T), -100 where masked; of equally good ones the
        first in the order of tag ids.

        Args:
            emissions: floats of shape (B, T, K).
            mask: bool of shape (B, T), True at words, right-padded.

        Raises:
            ValueError: shapes that do not fit, or a mask that is not bool and right-padded.
        """
        scores, _ = self._scores(emissions, mask)
        packing = Packing(mask)
        packed = scores.reshape(-1, scores.shape[2])[packing.source]
        tags = np.full(mask.shape, -100)
        parameters = (score.astype(scores.dtype) for score in (self.start, self.transitions, self.end))
        tags.reshape(-1)[packing.source] = viterbi(packed, packing, *parameters)
        return tags

    def span_log_prob(self, emissions: np.ndarray, mask: np.ndarray, spans: np.ndarray) -> np.ndarray:
        """
        Log-probability that exactly these words form an entity, shape (N,), at most 0.

        Args:
            emissions, mask: as in `decode`.
            spans: integers of shape (N, 5): row, start, end (exclusive), begin tag, inside tag (-1: the type has none,
                one word only).

        Raises:
            ValueError: as in `decode`; also a span that is empty, leaves its sentence or names an unknown tag.
        """
        scores, lengths = self._scores(emissions, mask)
        spans = np.asarray(spans)
        self._check_spans(spans, lengths)
        if not len(spans):
            return np.zeros(0, dtype=scores.dtype)
        row, start, end, begin, inside = spans.T
        left, right = self._messages(scores, lengths)
        total = left + scores + right
        at_start = total[row, start]  # (N, K)
        result = at_start[np.arange(len(spans)), begin] - _logsumexp(at_start, axis=1)
        # The chain rule from left to right: P(next | this) = exp(transitions[this, next] + onward - right[this]).
        onward = right + scores
        onward = onward - onward.max(axis=2, keepdims=True)
        several = np.flatnonzero(end - start > 1)
        second = start[several] + 1
        result[several] += (
            self.transitions[begin[several], inside[several]]
            + onward[row[several], second, inside[several]]
            - right[row[several], start[several], begin[several]]
        )
        for span in np.flatnonzero(end - start > 2):
            at, first, stop, tag = row[span], start[span] + 1, end[span] - 1, inside[span]
            stay = self.transitions[tag, tag] + onward[at, first + 1 : stop + 1, tag] - right[at, first:stop, tag]
            result[span] += stay.sum()

        tail = np.where(end - start > 1, inside, begin)
        after = np.minimum(end, scores.shape[1] - 1)
        leaving = self.transitions[tail] + onward[row, after]  # (N, K)
        leaving[np.arange(len(self.start)) == inside[:, None]] = FORBIDDEN
        stop_score = _logsumexp(leaving, axis=1) - right[row, end - 1, tail]
        return np.minimum(result + np.where(end < lengths[row], stop_score, 0), 0)

    def _messages(self, scores: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the words left and right of each say about its tag: log-messages (B, T, K), up to a constant each."""
        left, right = np.empty_like(scores), np.empty_like(scores)
        left[:, :1] = self.start
        right[:] = self.end
        for word in range(1, scores.shape[1]):
            out = left[:, word - 1] + scores[:, word - 1]
            out = out - out.max(axis=1, keepdims=True)
            left[:, word] = _logsumexp(out[:, :, None] + self.transitions, axis=1)
        for word in range(scores.shape[1] - 2, -1, -1):
            out = right[:, word + 1] + scores[:, word + 1]
            out = out - out.max(axis=1, keepdims=True)
            before = _logsumexp(out[:, None] + self.transitions, axis=2)
            right[:, word] = np.where((word + 1 < lengths)[:, None], before, right[:, word])
        return left, right

    def _scores(self, emissions: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Emissions (B, T, K) in at least float32, zero where masked, and the rows' lengths (B,)."""
        emissions, mask = np.asarray(emissions), np.asarray(mask)
        if emissions.ndim != 3 or emissions.shape[2] != len(self.start) or mask.shape != emissions.shape[:2]:
            raise ValueError(
                f"Got emissions of shape {emissions.shape} and a mask of shape {mask.shape}; expected (batch, words, "
                f"{len(self.start)}) and (batch, words)."
            )
        if mask.dtype != bool or (mask[:, 1:] & ~mask[:, :-1]).any():
            raise ValueError("The mask must be bool and right-padded: True at a row's words, False after the last.")
        dtype = np.result_type(emissions, np.float32)
        return np.where(mask[..., None], emissions.astype(dtype), dtype.type(0)), mask.sum(axis=1)

    def _check_spans(self, spans: np.ndarray, lengths: np.ndarray) -> None:
        if spans.ndim != 2 or spans.shape[1] != 5 or not np.issubdtype(spans.dtype, np.integer):
            raise ValueError(f"Got spans {spans.dtype} of shape {spans.shape}; expected integers of shape (N, 5).")
        row, start, end, begin, inside = spans.T
        known = (row >= 0) & (row < len(lengths))
        length = np.append(lengths, 0)[np.where(known, row, len(lengths))]
        tags = len(self.start)
        good = (start >= 0) & (start < end) & (end <= length) & (begin >= 0) & (begin < tags)
        good &= (inside >= -1) & (inside < tags) & ((inside >= 0) | (end - start == 1))
        if not good.all():
            first = int(np.flatnonzero(~good)[0])
            raise ValueError(
                f"Span {first} (row, start, end, begin tag, inside tag) is {tuple(spans[first].tolist())}; expected "
                f"words of one of {len(lengths)} rows and tags below {tags}; inside tag -1 only for one word."
            )


def _graphs(model, processor):
    """Name, module, example inputs (name -> tensor, dynamic dimensions) and output names of each graph to export."""
    device = model.device
    # Sizes that differ from each other, and two rows: the exporter takes a size of one for a constant.
    starts = torch.tensor([[1, 2, 4, 5, 6], [1, 3, 4, -1, -1]], device=device)
    pieces = torch.ones(2, 9, dtype=torch.int64, device=device)
    attended = pieces.clone()
    attended[1, 6:] = 0
    inputs = {"input_ids": (pieces, (0, 1)), "attention_mask": (attended, (0, 1)), "word_starts": (starts, (0, 1))}
    text = TextGraph(model)
    yield TEXT_GRAPH, text, inputs, ["word_states", "logits"]
    if model.model.collaboration is None:
        return
    picture = processor("", images=Image.new("RGB", (64, 64)))["pixel_values"]
    pixels = picture.to(device).expand(2, -1, -1, -1).contiguous()
    states = ImageGraph(model)(pixels)
    names = ["image_states", "global_states"][: len(states)]
    yield IMAGE_GRAPH, ImageGraph(model), {"pixel_values": (pixels, (0,))}, names
    words = torch.zeros(2, 5, model.classifier.in_features, device=device)
    inputs = {"word_states": (words, (0, 1)), "word_starts": (starts, (0, 1))}
    inputs |= {name: (value, (0,)) for name, value in zip(names, states, strict=True)}
    yield FUSION_GRAPH, FusionGraph(model), inputs, ["logits"]


def _export(graph: nn.Module, inputs: dict, outputs: list[str], path: Path) -> None:
    """Writes one graph."""
    graph.eval()
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)  # it complains that torchvision is not installed: no tower here needs it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the exporter's own code
            torch.onnx.export(
                graph,
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
    finally:
        registry.setLevel(level)


def _quantize(source: Path, target: Path, sample: dict[str, np.ndarray], large: bool) -> None:
    """Dynamic int8 quantisation of one graph, but for the products that `sample` shows to have outliers."""
    quantization = _required("onnxruntime.quantization")
    root = logging.getLogger()
    root.addFilter(_no_preprocessing_advice)
    try:
        quantization.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(QUANTIZED_OPERATORS),
            nodes_to_exclude=[name for name, width in _input_ranges(source, sample).items() if width > WIDEST_RANGE],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=large,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        root.removeFilter(_no_preprocessing_advice)


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
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = dict(zip(inputs, session.run(inputs, sample), strict=True)) if inputs else {}
    del session
    path.unlink()
    widths = {name: float(np.ptp(value) / np.sqrt(np.mean(value**2))) for name, value in values.items()}
    return {node.name: widths[node.input[0]] for node in products}


def _sample(name: str, processor) -> dict[str, np.ndarray]:
    """Inputs of the text or the image graph that resemble real ones."""
    if name == TEXT_GRAPH:
        batch = processor(list(SAMPLE_SENTENCES), truncation=True)
        return {key: _array(batch[key], np.int64) for key in ("input_ids", "attention_mask", "word_starts")}
    colours = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(colours).resize((288, 224), Image.Resampling.BICUBIC)  # smooth, as photographs are
    return {"pixel_values": _array(processor("", images=picture)["pixel_values"], np.float32)}


def _no_preprocessing_advice(record: logging.LogRecord) -> bool:
    """Drops the advice to fold constants and infer shapes first: the exporter has done both."""
    return "pre-processing before quantization" not in record.getMessage()


def _is_large(graph: nn.Module) -> bool:
    """Whether the weights need a file of their own: one of ONNX holds at most 2 GB."""
    return sum(parameter.numel() for parameter in graph.parameters()) * 4 > 1_900_000_000


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


def _logsumexp(x: np.ndarray, axis: int) -> np.ndarray:
    highest = x.max(axis=axis, keepdims=True)
    return np.log(np.exp(x - highest).sum(axis=axis)) + highest.squeeze(axis)


__all__ = ["NumpyCRF", "OnnxEmissions", "export_onnx"]
