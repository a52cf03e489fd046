"""Handler for Inference Endpoints: JSON with texts and images in, JSON with entities, or with an error, out.

```json
{"inputs": [{"text": "Jordan was seen in Paris.", "image": "data:image/jpeg;base64,/9j/4AAQ..."}, "Orange gewinnt."],
 "parameters": {"min_score": 0.5}}
```
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import pipeline
from transformers.utils import logging

try:
    from .processing_2mner import load_image
except ImportError:
    from processing_2mner import load_image

logger = logging.get_logger(__name__)

INPUT_FORM = 'a text, or {"text": ..., "image": base64 or data: URI}, or a list of these'
MAX_MESSAGE_CHARACTERS = 500
# The pipeline's options that a request may set; the pipeline checks their values.
PARAMETERS = ("aggregation_strategy", "min_score", "entity_types", "top_k", "stride", "batch_size", "offsets")


@dataclass(frozen=True)
class Limits:
    """What one request may ask for; a single image is limited by `load_image`."""

    max_texts: int = 64
    max_text_characters: int = 20_000
    max_total_characters: int = 100_000
    max_total_pixels: int = 64_000_000
    max_batch_size: int = 32


class RequestError(ValueError):
    """What is wrong with a request: told to whoever sent it, without repeating all of what they sent."""

    def __init__(self, kind: str, message: str, status: int = 400):
        is_long = len(message) > MAX_MESSAGE_CHARACTERS
        super().__init__(f"{message[:MAX_MESSAGE_CHARACTERS]}..." if is_long else message)
        self.kind, self.status = kind, status


class EndpointHandler:
    """
    Answers requests by a model's pipeline; may be called from several threads.

    Args:
        path: the model's folder; by default the one this file lies in.
        ner: a [`TwoMNERPipeline`] to use instead of loading the folder's.
        limits: what a request may ask for.
    """

    def __init__(self, path: str = "", *, ner: Any = None, limits: Limits | None = None):
        self.limits = limits or Limits()
        folder = path or str(Path(__file__).resolve().parent)
        self.ner: Any = ner or pipeline("token-classification", model=folder, trust_remote_code=True)
        # No use in two at once (each takes all cores), and tokenizers cannot be shared while they work.
        self._lock = threading.Lock()

    def __call__(self, data: Any) -> list[dict] | list[list[dict]] | dict[str, dict]:
        """
        Args:
            data: `{"inputs": ..., "parameters": {...}}`. `inputs` is a text, or `{"text", "image"}` with the image as
                base64 or a `data:` URI (or `None`), or a list of these; a model of `image_as_text` takes a
                `"caption"`, too. `parameters` are options of the pipeline's call. No URL is fetched.

        Returns:
            The entities of the text, or a list of them for a list of texts, as the pipeline has them; or
            `{"error": {"type", "message", "status"}}` with an HTTP status of 4xx. Any other fault is logged and told
            as a status of 500 alone. Nothing is ever raised.
        """
        try:
            return self._answer(data)
        except RequestError as error:
            return error_response(error.kind, str(error), error.status)
        except Exception:  # a stranger must neither end the server nor read its stack
            logger.exception("A request could not be answered.")
            return error_response("internal_error", "The request could not be answered; it has been logged.", 500)

    def _answer(self, data: Any) -> list:
        if not isinstance(data, dict) or "inputs" not in data:
            raise RequestError("invalid_request", f'Got {_kind(data)}; expected {{"inputs": {INPUT_FORM}}}.')
        _only_known("The request", data, ("inputs", "parameters"))
        single = not isinstance(data["inputs"], list)
        given = [data["inputs"]] if single else data["inputs"]
        self._check_number("texts", len(given), self.limits.max_texts)
        names = ["inputs"] if single else [f"inputs[{index}]" for index in range(len(given))]
        items = [self._item(*pair) for pair in zip(given, names, strict=True)]
        lengths = [len(item["text"]) + len(item.get("caption", "")) for item in items]
        for name, length in zip(names, lengths, strict=True):
            self._check_number(f"characters in {name}", length, self.limits.max_text_characters)
        self._check_number("characters in all", sum(lengths), self.limits.max_total_characters)
        parameters = self._parameters(data.get("parameters"))
        self._open_images(items, names)
        try:
            found = self.find(items, parameters) if items else []
        except self.ner.InputError as error:
            raise RequestError("invalid_parameter", str(error)) from error
        return found[0] if single else found

    def find(self, items: list[dict], parameters: dict[str, Any]) -> list[list[dict]]:
        """The pipeline's call for a request that has been checked; a server may read several requests by one call."""
        with self._lock:
            return self.ner(items, **parameters)

    @staticmethod
    def _check_number(what: str, number: int, limit: int) -> None:
        if number > limit:
            raise RequestError("too_large", f"Got {number} {what}; the limit is {limit}. Send less at once.", 413)

    def _item(self, given: Any, name: str) -> dict[str, Any]:
        parts = given if isinstance(given, dict) else {"text": given}
        _only_known(name, parts, ("text", "image", *["caption"] * self.ner.model.config.image_as_text))
        item = {"text": None} | {key: value for key, value in parts.items() if value is not None}
        for key, value in item.items():
            _check_string(value, f"{name}.{key}" if parts is given else name)
        return item

    def _open_images(self, items: list[dict], names: list[str]) -> None:
        opened: dict[str, Image.Image] = {}
        for item, name in zip(items, names, strict=True):
            if (source := item.get("image")) is not None:
                try:
                    item["image"] = opened[source] = opened.get(source) or load_image(source, trusted=False)
                except ValueError as error:
                    raise RequestError("invalid_image", f"{name}.image: {error}", 422) from error
                num_pixels = sum(image.width * image.height for image in opened.values())
                self._check_number("pixels in all", num_pixels, self.limits.max_total_pixels)

    def _parameters(self, parameters: Any) -> dict[str, Any]:
        parameters = {} if parameters is None else parameters
        if not isinstance(parameters, dict):
            raise RequestError("invalid_request", f"`parameters` is {_kind(parameters)}; expected an object.")
        _only_known("`parameters`", parameters, PARAMETERS, kind="unknown_parameter")
        # The more neighbouring windows share, the more of them there are: with all but one word, one for each word.
        half = self.ner.processor.token_budget() // 2
        for name, limit in (("stride", half), ("batch_size", self.limits.max_batch_size)):
            value = parameters.get(name)
            if isinstance(value, int) and value > limit:
                raise RequestError("invalid_parameter", f"`{name}` is {_shown(value)}; expected at most {limit}.")
        return parameters


def error_response(kind: str, message: str, status: int) -> dict[str, dict]:
    """An error as the handler returns it: the type for programs, the message for people, the HTTP status."""
    return {"error": {"type": kind, "message": message, "status": status}}


def _only_known(what: str, given: dict, known, kind: str = "invalid_request") -> None:
    unknown = [key for key in given if key not in known]
    if unknown:
        names = ", ".join(_shown(key) for key in unknown[:5])
        raise RequestError(kind, f"{what} has the unknown {names}; known are {', '.join(known)}.")


def _check_string(text: Any, name: str) -> None:
    if not isinstance(text, str):
        raise RequestError("invalid_request", f"{name} is {_kind(text)}; `inputs` is {INPUT_FORM}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can write half a character, which no server can send back
        message = f"{name} has half of a surrogate pair at character {error.start}; expected Unicode text."
        raise RequestError("invalid_request", message) from error


def _kind(value: Any) -> str:
    """A JSON value in words."""
    if isinstance(value, dict):
        return f"an object with the keys {_shown(list(value))}" if value else "an empty object"
    names = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), f"of type {type(value).__name__}")


def _shown(value: Any) -> str:
    """A value as it came, cut to what fits a message."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


__all__ = ["EndpointHandler", "Limits", "RequestError", "error_response"]
