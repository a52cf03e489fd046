"""Polite HTTP: one User-Agent, a rate limit, back-off, a cache of answers; pictures that are whole when they appear.

After the robot policy of Wikimedia (https://wikitech.wikimedia.org/wiki/Robot_policy), which suits any other host too.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from PIL import Image
from requests.exceptions import (
    ChunkedEncodingError,
    ConnectionError,
    ContentDecodingError,
    RequestException,
    Timeout,
    TooManyRedirects,
)
from requests_cache import DO_NOT_CACHE, CachedSession
from requests_ratelimiter import LimiterAdapter
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential_jitter
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from ...images import FORMATS, image_problem

T = TypeVar("T")
R = TypeVar("R")

SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
}
"""File name suffix by the format that Pillow finds in the file; other formats are refused."""
TEMPORARY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
UNDECLARED_TYPES = ("application/octet-stream", "binary/octet-stream", "")
"""What servers that do not know better say of a picture."""
LAG_S = 5.0
"""Waited where a lagging server does not say for how long: https://www.mediawiki.org/wiki/Manual:Maxlag_parameter."""
UNDECODABLE_ATTEMPTS = 3
MAX_REDIRECTS = 5
HEADERS_BYTES = 2**20
"""For all that an answer has beside its content."""
NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that stand for IPv4 ones (RFC 6052)."""
PART = ".part"
_DECODING = threading.Lock()
"""``image_problem`` changes the filters of ``warnings``, which all threads share."""


class Temporary(Exception):
    """No answer; another day may bring one. ``again``: so may another attempt."""

    again = True


class _NotNow(Temporary):
    """A host that asked for a longer wait than this run grants."""

    again = False


class Refused(Exception):
    """An answer that no repetition will change; ``cause`` is short, of few kinds, for counting."""

    def __init__(self, cause: str, detail: str = ""):
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause


class _Undecodable(Temporary):
    """A file that came whole, as far as HTTP can tell, and does not open."""


@dataclass(frozen=True)
class Politeness:
    """How hard servers are pressed.

    Attributes:
        requests_per_second: to any one host, over all workers.
        workers: requests under way at a time. Wikimedia asks for no more than 3.
        attempts: for each request, before it is given up for this run.
        backoff_s: the first wait between two attempts, in seconds; it doubles, up to a minute, and up to as much again
            is added at random.
        longest_wait_s: a server that asks for a longer wait is not asked again in this run.
        timeout_s: for a connection, and between two bytes of an answer.
        sleep: what waits; tests put in one that does not.
    """

    requests_per_second: float = 3.0
    workers: int = 2
    attempts: int = 6
    backoff_s: float = 1.0
    longest_wait_s: float = 300.0
    timeout_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not (self.requests_per_second > 0 and self.workers >= 1 and self.attempts >= 1):
            raise ValueError(
                f"{self.requests_per_second} requests a second, {self.workers} workers and {self.attempts} attempts "
                "came; expected more than 0 requests a second, and at least 1 worker and 1 attempt."
            )


@dataclass(frozen=True)
class Limits:
    """The largest picture that is taken: bytes of its file, pixels, seconds of its download (redirects included)."""

    max_bytes: float = 20 * 2**20
    max_pixels: int = 50_000_000
    max_seconds: float = 120.0


POLITE = Politeness()
LIMITS = Limits()
ANSWER_LIMITS = Limits(max_bytes=math.inf)


class _Meter(threading.local):
    """What the request of this thread may still take."""

    until_s = bytes_left = math.inf

    def begin(self, limits: Limits) -> None:
        self.limits = limits
        self.until_s = time.monotonic() + limits.max_seconds
        self.bytes_left = limits.max_bytes + HEADERS_BYTES

    def seconds_left(self) -> float:
        left = self.until_s - time.monotonic()
        if left <= 0:
            raise Temporary(f"the answer took longer than {self.limits.max_seconds:g} s")
        return left

    def count(self, num_bytes: int) -> None:
        self.bytes_left -= num_bytes
        if self.bytes_left < 0:
            raise Refused("file too large", f"more than {self.limits.max_bytes} bytes came")


_METER = _Meter()


class _MeteredReader(io.RawIOBase):
    """What comes from a socket while the meter allows it: a socket's own timeout begins anew with every byte."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase):
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
        self.fp = io.BufferedReader(_MeteredReader(sock, self.fp.detach()))


class _MeteredConnection:
    """Mixed into the connections of urllib3."""

    response_class = _MeteredResponse
    public_only = False

    def _new_conn(self) -> socket.socket:
        self.timeout = min(_METER.seconds_left(), self.timeout)
        if not self.public_only:
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
    def resolve_redirects(self, *args: Any, **options: Any) -> Iterator[requests.Response]:
        """None: it would read and unpack whatever stands beside a redirect. ``Fetcher`` follows them."""
        return iter(())


def user_agent(contact: str) -> str:
    """The User-Agent of all requests.

    Args:
        contact: a mail address or a URL where whoever runs the servers finds whoever runs this.

    Raises:
        ValueError: it is neither.
    """
    contact = contact.strip()
    if not ("@" in contact or contact.startswith(("http://", "https://"))) or not contact.isprintable():
        raise ValueError(
            f"The contact is {contact!r}; expected a mail address or a URL. Servers ask for one, to write to before "
            "they block: https://foundation.wikimedia.org/wiki/Policy:User-Agent_policy"
        )
    return f"2M-NER-dataset-builder/1.0 ({contact}) python-requests/{requests.__version__}"


class Fetcher:
    """Fetches JSON answers and pictures, from several threads at a time.

    Args:
        contact: as for ``user_agent``.
        cache: the SQLite file that keeps JSON answers for ``cache_days``; ``None`` to fetch pictures alone.
        politeness: how hard servers are pressed.
        public_only: for URLs that strangers name: connect to public addresses alone, and directly, since a proxy would
            look up names itself; send no password that ``.netrc`` has.
    """

    def __init__(
        self,
        contact: str,
        cache: Path | None,
        politeness: Politeness = POLITE,
        cache_days: int = 30,
        public_only: bool = False,
    ):
        self.politeness = politeness
        self._held: dict[str, float] = {}
        self._adapter = LimiterAdapter(per_second=politeness.requests_per_second, limit_statuses=())
        self._adapter.poolmanager.pool_classes_by_scheme = {
            scheme: type(pool.__name__, (pool,), {"ConnectionCls": _connection(pool.ConnectionCls, public_only)})
            for scheme, pool in self._adapter.poolmanager.pool_classes_by_scheme.items()
        }
        self._files = self._ready(_Session(), contact)
        self._files.trust_env = not public_only
        self._files.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
        self._answers: requests.Session | None = None
        if cache:
            session = CachedSession(
                str(cache),
                backend="sqlite",
                wal=True,
                expire_after=timedelta(days=cache_days),
                allowable_codes=(200,),
                filter_fn=_is_answer,  # a server that lags says so with status 200
            )
            self._answers = self._ready(session, contact)

    def json(self, url: str, params: Mapping[str, Any], cached: bool = True) -> dict[str, Any]:
        """The answer of a MediaWiki API.

        Raises:
            Temporary: none came after all attempts.
            Refused: it was an error that will stay.
        """
        session = self._answers
        if session is None:
            raise ValueError("This fetcher has no cache: expected one that was made for JSON answers.")
        options: dict[str, Any] = {} if cached else {"expire_after": DO_NOT_CACHE}

        def ask() -> dict[str, Any]:
            self._wait_for(url)
            response = session.get(url, params=dict(params), timeout=self.politeness.timeout_s, **options)
            self._check_status(response)
            try:
                answer = response.json()
            except ValueError:
                raise Temporary(f"{url} answered no JSON: {response.text[:100]!r}") from None
            error = answer.get("error") if isinstance(answer, dict) else {"code": "no object"}
            if error is not None:
                self._check_error(response, error)
            return answer

        return self._attempt(ask, url, ANSWER_LIMITS)

    def picture(self, url: str, folder: Path, stem: str, limits: Limits = LIMITS) -> Path:
        """Download a picture to ``folder/stem`` and the suffix of its format, unless it is there.

        The file appears under its name when it is whole and its pixels decode, never before.

        Raises:
            Temporary: it did not come after all attempts.
            Refused: it is no picture, too large, not there, or not at a public address.
        """
        for suffix in dict.fromkeys(SUFFIXES.values()):
            path = folder / (stem + suffix)
            if path.is_file():
                return path
        if not re.match("https?://", url, re.IGNORECASE):
            raise Refused("not an http or https URL", url)
        part = folder / f"{stem}-{threading.get_ident()}{PART}"

        def fetch() -> Path:
            self._wait_for(url)
            self._save(url, part, limits)
            with _DECODING:
                path = folder / (stem + _suffix(part, limits))
            part.replace(path)
            return path

        try:
            return self._attempt(fetch, url, limits)
        except _Undecodable as error:
            raise Refused("does not open as a picture", str(error)) from None
        finally:
            part.unlink(missing_ok=True)

    def close(self) -> None:
        """Close all connections and the cache."""
        if self._answers is not None:
            self._answers.close()
        self._files.close()
        self._adapter.close()

    def _ready(self, session: requests.Session, contact: str) -> requests.Session:
        session.headers["User-Agent"] = user_agent(contact)
        session.max_redirects = MAX_REDIRECTS
        # One adapter, and so one limit for a host, for answers and pictures.
        session.mount("http://", self._adapter)
        session.mount("https://", self._adapter)
        return session

    def _attempt(self, function: Callable[[], T], url: str, limits: Limits) -> T:
        def once() -> T:
            _METER.begin(limits)
            try:
                return function()
            except (ConnectionError, Timeout, ChunkedEncodingError, ContentDecodingError) as error:
                raise Temporary(f"{url}: {type(error).__name__}: {error}") from error
            except (RequestException, urllib3.exceptions.LocationParseError, ValueError) as error:
                # ValueError: what urllib.parse raises, of this URL or of one that a redirect leads to.
                raise Refused(f"bad URL or redirect ({type(error).__name__})", url) from error
            except urllib3.exceptions.HTTPError as error:
                raise Temporary(f"{url}: {type(error).__name__}: {error}") from error

        def stop(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            most = UNDECODABLE_ATTEMPTS if isinstance(error, _Undecodable) else self.politeness.attempts
            return state.attempt_number >= min(most, self.politeness.attempts)

        backoff_s = self.politeness.backoff_s
        retrying = Retrying(
            stop=stop,
            wait=wait_exponential_jitter(multiplier=backoff_s, max=60 * backoff_s, jitter=backoff_s),
            retry=retry_if_exception(lambda error: isinstance(error, Temporary) and error.again),
            sleep=self.politeness.sleep,
            reraise=True,
        )
        return retrying(once)

    def _check_status(self, response: requests.Response) -> None:
        if response.status_code in TEMPORARY_STATUSES:
            self._hold(response.url, _retry_after_s(response))
            raise Temporary(f"{response.url} answered HTTP {response.status_code}")
        if response.status_code != 200:
            raise Refused(f"HTTP {response.status_code}", response.url)

    def _check_error(self, response: requests.Response, error: Mapping[str, Any]) -> None:
        code = str(error.get("code"))
        if code in ("maxlag", "ratelimited", "readonly") or code.startswith("internal_api_error"):
            self._hold(response.url, _retry_after_s(response) or LAG_S)
            raise Temporary(f"{response.url} answered {code}: {error.get('info')}")
        raise Refused(f"API error {code}", f"{error.get('info')} ({response.url})")

    def _hold(self, url: str, seconds: float) -> None:
        # All workers wait for a host that asked one of them to.
        host = urlsplit(url).netloc
        self._held[host] = max(self._held.get(host, 0.0), time.monotonic() + seconds)

    def _wait_for(self, url: str) -> None:
        host = urlsplit(url).netloc
        seconds = self._held.get(host, 0.0) - time.monotonic()
        if seconds > self.politeness.longest_wait_s:
            raise _NotNow(f"{host} asked not to be asked for another {seconds:.0f} s")
        if seconds > 0:
            self.politeness.sleep(seconds)

    def _save(self, url: str, part: Path, limits: Limits) -> None:
        # As it is: what comes packed may be a thousand times as large when it is unpacked.
        asked = {"Accept-Encoding": "identity"}
        for _ in range(1 + MAX_REDIRECTS):
            response = self._files.get(url, headers=asked, stream=True, timeout=self.politeness.timeout_s)
            target = self._files.get_redirect_target(response)
            if target is None:
                break
            response.close()
            url = urljoin(response.url, target)
        else:
            raise TooManyRedirects(url)
        with response:
            self._check_status(response)
            kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
            if not kind.startswith("image/") and kind not in UNDECLARED_TYPES:
                raise Refused("not a picture", f"{kind} at {url}")
            length = response.headers.get("Content-Length", "")
            if length.isdigit() and int(length) > limits.max_bytes:
                raise Refused("file too large", f"{length} bytes at {url}")
            written = 0
            with part.open("wb") as file:
                for chunk in response.raw.stream(2**16, decode_content=False):
                    written += len(chunk)
                    if written > limits.max_bytes:
                        raise Refused("file too large", f"more than {limits.max_bytes} bytes at {url}")
                    file.write(chunk)


def _connection(kind: type, public_only: bool) -> type:
    return type(kind.__name__, (_MeteredConnection, kind), {"public_only": public_only})


def in_parallel(
    function: Callable[[T], R], items: Iterable[T], workers: int
) -> Iterator[tuple[T, R | None, Temporary | Refused | None]]:
    """Each item with what ``function`` made of it, and with the ``Temporary`` or ``Refused`` that it raised, if any.

    In the order of completion. ``items`` is read as it is needed, a few ahead.
    """
    items = iter(items)
    pending: dict[Future[R], T] = {}
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fetch")
    try:
        while True:
            while len(pending) < 2 * workers and (item := next(items, None)) is not None:
                pending[pool.submit(function, item)] = item
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                item = pending.pop(future)
                error = future.exception()
                if error is None:
                    yield item, future.result(), None
                elif isinstance(error, Temporary | Refused):
                    yield item, None, error
                else:
                    raise error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def clear_parts(folder: Path) -> None:
    """Remove what a killed run has left of downloads that were under way."""
    for part in folder.glob(f"*{PART}"):
        part.unlink(missing_ok=True)


def retry_after_s(value: str | None, now: datetime) -> float:
    """The seconds that a Retry-After header asks for, in either of its forms (RFC 9110, 10.2.3); 0 for none."""
    if not value:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - now).total_seconds())


def _retry_after_s(response: requests.Response) -> float:
    return retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC))


def _is_answer(response: Any) -> bool:
    try:
        answer = response.json()
    except ValueError:
        return False
    return isinstance(answer, dict) and "error" not in answer


def _suffix(path: Path, limits: Limits) -> str:
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height, form = *image.size, str(image.format)
    except Image.DecompressionBombError as error:
        raise Refused("too many pixels", str(error)) from None
    except Exception as error:  # as in images.open_image
        raise _Undecodable(f"{type(error).__name__}: {error}".replace(str(path), "the file")) from None
    if width * height > limits.max_pixels:
        raise Refused("too many pixels", f"{width} x {height}")
    if form not in SUFFIXES:
        raise Refused("format not supported", form)
    problem = image_problem(path)
    if problem:
        raise _Undecodable(problem)
    return SUFFIXES[form]


def add_politeness_arguments(parser: Any) -> None:
    """The options of the providers that fetch, once for all of them."""
    parser.add_argument(
        "--contact",
        default=os.environ.get("MMNER_CONTACT"),
        help="your mail address or URL, sent to servers with every request; or $MMNER_CONTACT",
    )
    for name, kind, text in (
        ("requests_per_second", float, f"to any one host ({POLITE.requests_per_second})"),
        ("workers", int, f"requests under way at a time ({POLITE.workers})"),
        ("attempts", int, "for each request before it is given up for this run"),
    ):
        parser.add_argument(f"--{name}", type=kind, help=text)


def politeness_of(arguments: Any, default: Politeness = POLITE) -> Politeness:
    """The politeness that the command line asks for."""
    given = {name: getattr(arguments, name) for name in ("requests_per_second", "workers", "attempts")}
    return replace(default, **{name: value for name, value in given.items() if value is not None})
