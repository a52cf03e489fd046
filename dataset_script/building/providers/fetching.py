"""HTTP with a rate limit, back-off and limits of size and time.

After the robot policy of Wikimedia (https://wikitech.wikimedia.org/wiki/Robot_policy), which suits other hosts too.
"""

import io
import ipaddress
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from PIL import Image
from requests import exceptions
from requests_ratelimiter import LimiterAdapter
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from ...images import FORMATS, open_image

T = TypeVar("T")

TEMPORARY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
UNDECLARED_TYPES = ("application/octet-stream", "binary/octet-stream", "")
LAG_S = 5.0
"""Waited where a lagging server does not say for how long: https://www.mediawiki.org/wiki/Manual:Maxlag_parameter."""
MAX_BYTES = 20 * 2**20
"""Of an image."""
MAX_SECONDS = 120.0
"""For the content of an image."""
BROKEN = (
    exceptions.ConnectionError,
    exceptions.Timeout,
    exceptions.ChunkedEncodingError,
    exceptions.ContentDecodingError,
    urllib3.exceptions.HTTPError,
)
"""What libraries raise where another attempt may bring an answer."""


class Temporary(Exception):
    """No answer; another attempt may bring one, after ``wait_s`` where the server asked for a wait."""

    def __init__(self, message: str, wait_s: float = 0.0):
        super().__init__(message)
        self.wait_s = wait_s


class Undecodable(Temporary):
    """An image that came whole, as far as HTTP can tell, and does not open."""


class Refused(Exception):
    """An answer that no repetition will change; ``cause`` is short, of few kinds, for counting."""

    def __init__(self, cause: str, detail: str = ""):
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause


@dataclass(frozen=True)
class Politeness:
    """How hard servers are pressed."""

    requests_per_second: float = 3.0  # to any one host, over all workers
    workers: int = 2  # requests under way at a time; Wikimedia asks for no more than 3
    attempts: int = 6  # for each request, before it is given up for this run
    backoff_s: float = 1.0  # the first wait between two attempts; it doubles up to a minute
    longest_wait_s: float = 300.0  # a request that the server wants to wait longer is given up for this run
    timeout_s: float = 30.0  # for a connection, and between two parts of an answer
    sleep: Callable[[float], None] = time.sleep  # the function that waits; tests replace it

    def __post_init__(self) -> None:
        if not (self.requests_per_second > 0 and self.workers >= 1):
            shown = f"--requests_per_second is {self.requests_per_second} and --workers is {self.workers}"
            raise ValueError(f"{shown}; expected a number above 0 and a number of at least 1.")


POLITE = Politeness()


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet."""
    ip = ipaddress.ip_address(address)
    return ip.is_global and not ip.is_multicast


class _PublicAdapter(LimiterAdapter):
    """Sends requests, those of redirects too, to hosts with public addresses alone."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        host = urlsplit(str(request.url)).hostname or ""
        try:
            addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
        except OSError as error:
            raise Temporary(f"{host} has no address: {error}") from error
        if not all(map(is_public, addresses)):
            raise Refused("not a public address", f"{host} is {', '.join(sorted(addresses))}")
        return super().send(request, *args, **options)


def user_agent(contact: str | None) -> str:
    """The User-Agent of all requests; ``contact`` is a mail address or a URL of whoever runs this.

    Raises:
        ValueError: it is neither.
    """
    contact = (contact or "").strip()
    if not ("@" in contact or contact.startswith(("http://", "https://"))) or not contact.isprintable():
        raise ValueError(
            f"--contact is {contact!r}; expected a mail address or a URL. Servers ask for one, to write to before "
            "they block: https://foundation.wikimedia.org/wiki/Policy:User-Agent_policy"
        )
    return f"2M-NER-dataset-builder/1.0 ({contact}) python-requests/{requests.__version__}"


class Fetcher:
    """Fetches JSON answers and images, from several threads at a time.

    Args:
        contact: as for ``user_agent``.
        politeness: how hard servers are pressed.
        public_only: for URLs that rows name: ask public addresses alone, without proxies or passwords of ``.netrc``.
    """

    def __init__(self, contact: str | None, politeness: Politeness = POLITE, public_only: bool = False):
        self.politeness = politeness
        kind = _PublicAdapter if public_only else LimiterAdapter
        adapter = kind(per_second=politeness.requests_per_second, limit_statuses=())
        self._session = requests.Session()
        self._session.headers["User-Agent"] = user_agent(contact)
        self._session.trust_env = not public_only
        self._session.max_redirects = 5
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def json(self, url: str, params: Mapping[str, str]) -> dict[str, Any]:
        """The answer of a MediaWiki API; ``Temporary`` if none came after all attempts, ``Refused`` for an error that
        stays.
        """

        def ask() -> dict[str, Any]:
            with self._get(url, params=params) as response:
                try:
                    answer = response.json()
                except exceptions.JSONDecodeError:
                    raise Temporary(f"{url} answered no JSON: {response.text[:100]!r}") from None
            error = answer.get("error")
            if error is None:
                return answer
            code = str(error.get("code"))
            if code in ("maxlag", "ratelimited", "readonly") or code.startswith("internal_api_error"):
                raise Temporary(f"{url} answered {code}: {error.get('info')}", _retry_after_s(response) or LAG_S)
            raise Refused(f"API error {code}", f"{error.get('info')} ({response.url})")

        return self._attempt(ask, url)

    def image(self, url: str, folder: Path, stem: str) -> Path:
        """Download an image to ``folder/stem`` and the suffix of its format.

        The file appears under its name when it is whole and its pixels decode, never before. ``Temporary`` if it
        did not come after all attempts; ``Refused`` if it is no image, too large, not there, or not at a public
        address.
        """
        if not re.match("https?://", url, re.IGNORECASE):
            raise Refused("not an http or https URL", url)

        def fetch() -> Path:
            # Not packed: packed content may be a thousand times as large when it is unpacked.
            with self._get(url, headers={"Accept-Encoding": "identity"}) as response:
                kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
                if not kind.startswith("image/") and kind not in UNDECLARED_TYPES:
                    raise Refused("not an image", f"{kind} at {url}")
                data, until_s = bytearray(), time.monotonic() + MAX_SECONDS
                while part := response.raw.read1(2**16, decode_content=False):
                    data += part
                    if len(data) > MAX_BYTES:
                        raise Refused("file too large", url)
                    if time.monotonic() > until_s:
                        raise Temporary(f"{url} took more than {MAX_SECONDS:.0f} s")
            path, part_file = folder / (stem + _suffix(bytes(data))), folder / f"{stem}.part"
            part_file.write_bytes(data)
            part_file.replace(path)
            return path

        try:
            return self._attempt(fetch, url)
        except Undecodable as error:
            raise Refused("does not open as an image", str(error)) from None

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def _attempt(self, function: Callable[[], T], url: str) -> T:
        def once() -> T:
            try:
                return function()
            except BROKEN as error:
                raise Temporary(f"{url}: {type(error).__name__}: {error}") from error
            except (exceptions.RequestException, ValueError) as error:
                # ValueError: what urllib.parse raises, of this URL or of one that a redirect leads to.
                raise Refused(f"bad URL or redirect ({type(error).__name__})", url) from error

        polite = self.politeness
        backoff = wait_exponential_jitter(
            multiplier=polite.backoff_s, max=60 * polite.backoff_s, jitter=polite.backoff_s
        )

        def wait_s(state: RetryCallState) -> float:
            return max(backoff(state), getattr(state.outcome and state.outcome.exception(), "wait_s", 0.0))

        return Retrying(
            stop=stop_after_attempt(polite.attempts),
            wait=wait_s,
            retry=retry_if_exception(lambda one: isinstance(one, Temporary) and one.wait_s <= polite.longest_wait_s),
            sleep=polite.sleep,
            reraise=True,
        )(once)

    def _get(self, url: str, **options: Any) -> requests.Response:
        """The answer to a request after redirects, its content not read yet."""
        response = self._session.get(url, stream=True, timeout=self.politeness.timeout_s, **options)
        if response.status_code == 200:
            return response
        response.close()
        if response.status_code not in TEMPORARY_STATUSES:
            raise Refused(f"HTTP {response.status_code}", response.url)
        raise Temporary(f"{response.url} answered HTTP {response.status_code}", _retry_after_s(response))


def _retry_after_s(response: requests.Response) -> float:
    """The seconds that an answer asks to wait for, as a number or a date; 0 for none."""
    try:
        return urllib3.Retry().get_retry_after(response.raw) or 0.0
    except urllib3.exceptions.InvalidHeader:
        return 0.0


def _suffix(data: bytes) -> str:
    """The suffix of the format of an image, all of whose pixels decode."""
    try:
        open_image(data)
    except OSError as error:
        raise Undecodable(str(error)) from None
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        form = str(image.format)
    return {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}.get(form, f".{form.lower()}")
