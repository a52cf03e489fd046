"""HTTP with a rate limit, back-off, deadlines and size limits.

After the robot policy of Wikimedia (https://wikitech.wikimedia.org/wiki/Robot_policy), which suits other hosts too.
"""

import contextlib
import http.client
import io
import ipaddress
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from PIL import Image
from requests import exceptions
from requests_ratelimiter import LimiterAdapter
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from ...images import FORMATS, open_image

T = TypeVar("T")

SUFFIXES = {
    "JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif",
}  # fmt: skip
"""File name suffix by the format that Pillow finds in the file; other formats are refused."""
TEMPORARY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
UNDECLARED_TYPES = ("application/octet-stream", "binary/octet-stream", "")
LAG_S = 5.0
"""Waited where a lagging server does not say for how long: https://www.mediawiki.org/wiki/Manual:Maxlag_parameter."""
MAX_REDIRECTS = 5
HEADERS_BYTES = 2**20
"""Granted for what an answer has beside its content."""
NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that stand for IPv4 ones (RFC 6052)."""
BROKEN = (
    *(
        exceptions.ConnectionError,
        exceptions.Timeout,
        exceptions.ChunkedEncodingError,
        exceptions.ContentDecodingError,
    ),
    urllib3.exceptions.HTTPError,
)
"""What libraries raise where another attempt may bring an answer."""
_DECODING = threading.Lock()
"""``open_image`` changes the filters of ``warnings``, which all threads share."""


class Temporary(Exception):
    """No answer; another attempt may bring one."""


class NotNow(Temporary):
    """The host asked for a longer wait than this run grants."""


class Undecodable(Temporary):
    """An image that came whole, as far as HTTP can tell, and does not open."""


class Refused(Exception):
    """An answer that no repetition will change; ``cause`` is short, of few kinds, for counting."""

    def __init__(self, cause: str, detail: str = ""):
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause


@dataclass(frozen=True)
class Politeness:
    """How hard servers are pressed.

    Attributes:
        requests_per_second: to any one host, over all workers.
        workers: requests under way at a time. Wikimedia asks for no more than 3.
        attempts: for each request, before it is given up for this run.
        backoff_s: the first wait between two attempts. It doubles up to a minute, and is prolonged at random.
        longest_wait_s: a server that asks for a longer wait is not asked again in this run.
        timeout_s: for a connection, and between two bytes of an answer.
        sleep: the function that waits; tests replace it.
    """

    requests_per_second: float = 3.0
    workers: int = 2
    attempts: int = 6
    backoff_s: float = 1.0
    longest_wait_s: float = 300.0
    timeout_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not (self.requests_per_second > 0 and self.workers >= 1):
            raise ValueError(
                f"--requests_per_second is {self.requests_per_second} and --workers is {self.workers}; expected a "
                "number above 0 and a number of at least 1."
            )


@dataclass(frozen=True)
class Limits:
    """The largest answer that is taken: bytes, pixels of an image, seconds (redirects included)."""

    max_bytes: float = 20 * 2**20
    max_pixels: int = 50_000_000
    max_seconds: float = 120.0


POLITE = Politeness()
LIMITS = Limits()


class _Meter(threading.local):
    """What the request of this thread may still take."""

    until_s = bytes_left = math.inf

    def begin(self, limits: Limits) -> None:
        self.until_s = time.monotonic() + limits.max_seconds
        self.bytes_left = limits.max_bytes + HEADERS_BYTES

    def seconds_left(self) -> float:
        left = self.until_s - time.monotonic()
        if left <= 0:
            raise Temporary("the answer took too long")
        return left

    def count(self, num_bytes: int) -> None:
        self.bytes_left -= num_bytes
        if self.bytes_left < 0:
            raise Refused("file too large")


_METER = _Meter()


class _MeteredReader(io.RawIOBase):
    """Reads from a socket while the meter allows it: a socket's own timeout begins anew with every byte."""

    def __init__(self, sock: socket.socket, raw: Any):
        self._sock, self._raw = sock, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(min(_METER.seconds_left(), self._sock.gettimeout() or math.inf))
        number = self._raw.readinto(buffer)
        _METER.count(number or 0)
        return number

    def close(self) -> None:
        self._raw.close()
        super().close()


class _MeteredResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any):
        super().__init__(sock, *args, **options)
        self.fp: Any = io.BufferedReader(_MeteredReader(sock, self.fp.detach()))


def _connection(base: Any, public_only: bool) -> type:
    """A connection of urllib3 that is metered and, if asked for, connects to public addresses alone."""

    class Connection(base):
        response_class = _MeteredResponse
        timeout: Any
        _dns_host: Any

        def _new_conn(self) -> socket.socket:
            self.timeout = min(_METER.seconds_left(), self.timeout)
            if not public_only:
                return super()._new_conn()
            name = self._dns_host
            try:
                found = socket.getaddrinfo(name, self.port, type=socket.SOCK_STREAM)
            except socket.gaierror as error:
                raise NameResolutionError(self.host, self, error) from error
            addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
            if not all(map(is_public, addresses)):
                raise Refused("not a public address", f"{name} is {', '.join(addresses)}")
            try:
                for self._dns_host in addresses:  # looked up again, the name might lead elsewhere
                    with contextlib.suppress(NewConnectionError, ConnectTimeoutError):
                        return super()._new_conn()
            finally:
                self._dns_host = name
            raise NewConnectionError(self, f"no connection to {', '.join(addresses)}")

    return Connection


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet, and so is the IPv4 address that an IPv6 one stands for."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) % 2**32) if ip in NAT64 else None)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast


class _Session(requests.Session):
    def resolve_redirects(self, *args: Any, **options: Any) -> Any:
        """None: requests would read and unpack the body of a redirect. ``Fetcher`` follows them."""
        return iter(())


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
        public_only: for URLs that strangers name: connect to public addresses alone, and directly, since a proxy would
            look up names itself; send no password that ``.netrc`` has.
    """

    def __init__(self, contact: str | None, politeness: Politeness = POLITE, public_only: bool = False):
        self.politeness = politeness
        self._held_until_s: dict[str, float] = {}
        adapter = LimiterAdapter(per_second=politeness.requests_per_second, limit_statuses=())
        pools: dict[str, Any] = adapter.poolmanager.pool_classes_by_scheme
        adapter.poolmanager.pool_classes_by_scheme = {
            scheme: type(pool.__name__, (pool,), {"ConnectionCls": _connection(pool.ConnectionCls, public_only)})
            for scheme, pool in pools.items()
        }
        self._session = _Session()
        self._session.headers["User-Agent"] = user_agent(contact)
        self._session.trust_env = not public_only
        self._session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def json(self, url: str, params: Mapping[str, str]) -> dict[str, Any]:
        """The answer of a MediaWiki API.

        Raises:
            Temporary: none came after all attempts.
            Refused: it was an error that will stay.
        """

        def ask() -> dict[str, Any]:
            with self._open(url, params=params) as response:
                try:
                    answer = response.json()
                except exceptions.JSONDecodeError:
                    raise Temporary(f"{url} answered no JSON: {response.text[:100]!r}") from None
            error = answer.get("error") if isinstance(answer, dict) else {"code": "no object"}
            if error is None:
                return answer
            code = str(error.get("code"))
            if code in ("maxlag", "ratelimited", "readonly") or code.startswith("internal_api_error"):
                self._hold(response, LAG_S)
                raise Temporary(f"{url} answered {code}: {error.get('info')}")
            raise Refused(f"API error {code}", f"{error.get('info')} ({response.url})")

        return self._attempt(ask, url, Limits(max_bytes=math.inf))

    def image(self, url: str, folder: Path, stem: str, limits: Limits = LIMITS) -> Path:
        """Download an image to ``folder/stem`` and the suffix of its format, unless it is there.

        The file appears under its name when it is whole and its pixels decode, never before.

        Raises:
            Temporary: it did not come after all attempts.
            Refused: it is no image, too large, not there, or not at a public address.
        """
        for suffix in dict.fromkeys(SUFFIXES.values()):
            if (path := folder / (stem + suffix)).is_file():
                return path
        if not re.match("https?://", url, re.IGNORECASE):
            raise Refused("not an http or https URL", url)

        def fetch() -> Path:
            # Not packed: packed content may be a thousand times as large when it is unpacked.
            with self._open(url, headers={"Accept-Encoding": "identity"}) as response:
                kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
                if not kind.startswith("image/") and kind not in UNDECLARED_TYPES:
                    raise Refused("not an image", f"{kind} at {url}")
                length = response.headers.get("Content-Length", "")
                if length.isdigit() and int(length) > limits.max_bytes:
                    raise Refused("file too large", f"{length} bytes at {url}")
                data = b"".join(response.raw.stream(2**16, decode_content=False))
            if len(data) > limits.max_bytes:
                raise Refused("file too large", f"{len(data)} bytes at {url}")
            path, part = folder / (stem + _suffix(data, limits)), folder / f"{stem}.part"
            part.write_bytes(data)
            part.replace(path)
            return path

        try:
            return self._attempt(fetch, url, limits)
        except Undecodable as error:
            raise Refused("does not open as an image", str(error)) from None

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def _attempt(self, function: Callable[[], T], url: str, limits: Limits) -> T:
        def once() -> T:
            _METER.begin(limits)
            try:
                return function()
            except BROKEN as error:
                raise Temporary(f"{url}: {type(error).__name__}: {error}") from error
            except (exceptions.RequestException, ValueError) as error:
                # ValueError: what urllib.parse raises, of this URL or of one that a redirect leads to.
                raise Refused(f"bad URL or redirect ({type(error).__name__})", url) from error

        backoff_s = self.politeness.backoff_s
        return Retrying(
            stop=stop_after_attempt(self.politeness.attempts),
            wait=wait_exponential_jitter(multiplier=backoff_s, max=60 * backoff_s, jitter=backoff_s),
            retry=retry_if_exception(lambda error: isinstance(error, Temporary) and not isinstance(error, NotNow)),
            sleep=self.politeness.sleep,
            reraise=True,
        )(once)

    def _open(self, url: str, **options: Any) -> requests.Response:
        """The answer to a request after redirects, its content not read yet."""
        host = urlsplit(url).netloc
        seconds = self._held_until_s.get(host, 0.0) - time.monotonic()
        if seconds > self.politeness.longest_wait_s:
            raise NotNow(f"{host} asked not to be asked for another {seconds:.0f} s")
        if seconds > 0:
            self.politeness.sleep(seconds)
        for _ in range(1 + MAX_REDIRECTS):
            response = self._session.get(url, stream=True, timeout=self.politeness.timeout_s, **options)
            target = self._session.get_redirect_target(response)
            if target is None:
                break
            response.close()
            url = urljoin(response.url, target)
        else:
            raise exceptions.TooManyRedirects(url)
        if response.status_code == 200:
            return response
        response.close()
        if response.status_code not in TEMPORARY_STATUSES:
            raise Refused(f"HTTP {response.status_code}", response.url)
        self._hold(response)
        raise Temporary(f"{response.url} answered HTTP {response.status_code}")

    def _hold(self, response: requests.Response, default_s: float = 0.0) -> None:
        """Let all workers wait for a host that asked one of them to."""
        host = urlsplit(response.url).netloc
        until_s = time.monotonic() + (retry_after_s(response.headers.get("Retry-After")) or default_s)
        self._held_until_s[host] = max(self._held_until_s.get(host, 0.0), until_s)


def retry_after_s(value: str | None) -> float:
    """The seconds that a Retry-After header asks for, in either of its forms (RFC 9110, 10.2.3); 0 for none."""
    try:
        return urllib3.Retry().parse_retry_after(value) if value else 0.0
    except urllib3.exceptions.InvalidHeader:
        return 0.0


def _suffix(data: bytes, limits: Limits) -> str:
    """The suffix of the format of an image that decodes and is not too large."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels, form = image.width * image.height, str(image.format)
        if pixels <= limits.max_pixels:
            with _DECODING:
                open_image(data)
    except Image.DecompressionBombError as error:
        raise Refused("too many pixels", str(error)) from None
    except Exception as error:  # Pillow's plugins raise nearly anything on corrupt data
        raise Undecodable(f"{type(error).__name__}: {error}") from None
    if pixels > limits.max_pixels:
        raise Refused("too many pixels", str(pixels))
    if form not in SUFFIXES:
        raise Refused("format not supported", form)
    return SUFFIXES[form]


def add_politeness_arguments(parser: Any) -> None:
    """The options of the providers that fetch, once for all of them."""
    text = "your mail address or URL, sent to servers with every request; or $MMNER_CONTACT"
    parser.add_argument("--contact", default=os.environ.get("MMNER_CONTACT"), help=text)
    text = "to any one host (%(default)s)"
    parser.add_argument("--requests_per_second", type=float, default=POLITE.requests_per_second, help=text)
    text = "requests under way at a time (%(default)s)"
    parser.add_argument("--workers", type=int, default=POLITE.workers, help=text)


def politeness_of(arguments: Any, default: Politeness = POLITE) -> Politeness:
    """The politeness that the command line asks for."""
    return replace(default, requests_per_second=arguments.requests_per_second, workers=arguments.workers)
