"""The APIs of MediaWiki, Wikidata and Commons: what is asked of them, and their answers in plain terms.

https://www.mediawiki.org/wiki/API:Query, https://www.wikidata.org/w/api.php, and prop=imageinfo of Commons. Answers
are dictionaries that can be kept as JSON. What an answer says nothing of is missing from what is returned.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from .fetching import Fetcher, Temporary

WIKIPEDIA = "https://{lang}.wikipedia.org/w/api.php"
WIKIDATA = "https://www.wikidata.org/w/api.php"
COMMONS = "https://commons.wikimedia.org/w/api.php"
BATCH = 50
"""Titles, or ids, a request: the most that clients without special rights may ask for."""
MAX_TITLES_LENGTH = 6000
"""Characters of the titles of a request as they stand in the URL: servers refuse URLs of more than about 8,000."""
MAX_CONTINUATIONS = 200
_BAD_TITLE = re.compile(r"[#<>\[\]{}|_\x00-\x1f\x7f\ufffd]|^:|^\s*$|%[0-9A-Fa-f]{2}|&[A-Za-z0-9]+;|^\.{1,2}$|~~~")
_METADATA = ("LicenseShortName", "License", "UsageTerms", "Artist", "Credit", "NonFree")
_NONE = {"missing": True}
PARAMETERS = {"format": "json", "formatversion": "2", "maxlag": "5"}
"""Parameters of all requests: a server that lags more than five seconds says so, and is left alone for a while."""


def title_of(surface: str) -> str | None:
    """The page title for a name whose tokens are joined by blanks, or ``None`` where no page can have it."""
    text = unicodedata.normalize("NFC", " ".join(surface.split()))
    text = re.sub(r" ([.,:;!?)\]]|['’]s?(?= |$))", r"\1", text)
    text = re.sub(r"([(\[]) ", r"\1", text)
    text = re.sub(r"(?<!\w)([dlDL]|[Qq]u|O)(['’]) (?=\w)", r"\1\2", text)  # d' Ivoire, L' Aquila, O' Neill
    text = re.sub(r"(?<=\w) - (?=\w)", "-", text)
    return None if _BAD_TITLE.search(text) or len(text.encode()) > 255 else text


def batches(values: Iterable[str], prefix: str = "") -> Iterator[list[str]]:
    """As many values together as one request takes."""
    batch: list[str] = []
    length = 0
    for value in values:
        own = len(quote(prefix + value)) + 3
        if batch and (len(batch) == BATCH or length + own > MAX_TITLES_LENGTH):
            yield batch
            batch, length = [], 0
        batch.append(value)
        length += own
    if batch:
        yield batch


class MediaWiki:
    """The three APIs, by the URLs of their ``api.php``, that of Wikipedia with ``{lang}`` in it."""

    def __init__(self, fetcher: Fetcher, wikipedia: str = WIKIPEDIA, wikidata: str = WIKIDATA, commons: str = COMMONS):
        self._fetcher = fetcher
        self._wikipedia, self._wikidata, self._commons = wikipedia, wikidata, commons

    def pages(self, lang: str, titles: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The pages of up to ``BATCH`` titles, redirects followed, by title: ``outcome`` (``page``,
        ``disambiguation``, or why there is none), ``title``, its Wikidata ``item``, and the file name of its free
        ``image``.
        """
        asked = {"prop": "pageprops|pageimages", "ppprop": "wikibase_item|disambiguation"}
        asked |= {"piprop": "name", "pilicense": "free", "pilimit": str(BATCH)}
        answer = self._query(self._wikipedia.format(lang=lang), titles, asked)
        return {title: _page(page) for title in titles if (page := answer.find(title))}

    def items(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The items of up to ``BATCH`` ids, without values of deprecated rank: the ``id`` that the item has now
        (``None`` for one that is gone), the ``classes`` that it is an instance of (where none is stated, a subclass
        of), its ``parents`` (the classes that it is a subclass of), and ``images``: files on Commons, preferred
        rank first.
        """
        asked = {"action": "wbgetentities", "ids": "|".join(ids), "props": "claims"}
        entities = self._fetcher.json(self._wikidata, PARAMETERS | asked).get("entities") or {}
        return {item_id: _item(entities[item_id]) for item_id in ids if item_id in entities}

    def files(self, width_px: int, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The files of up to ``BATCH`` names, without their namespace: ``problem`` (why there is nothing to fetch, or
        ``None``), ``url`` of a thumbnail, short name of the ``licence``, ``author``, and URL of the ``page``."""
        asked = {"prop": "imageinfo", "iiprop": "url|size|mime|extmetadata", "iiurlwidth": str(width_px)}
        asked |= {"iiextmetadatalanguage": "en", "iiextmetadatafilter": "|".join(_METADATA)}
        answer = self._query(self._commons, [f"File:{name}" for name in names], asked)
        return {name: _file(page) for name in names if (page := answer.find(f"File:{name}"))}

    def _query(self, url: str, titles: Sequence[str], params: dict[str, str]) -> "_Answer":
        result = _Answer()
        asked = PARAMETERS | {"action": "query", "redirects": "1", "titles": "|".join(titles)} | params
        continued: dict[str, str] = {}
        for _ in range(MAX_CONTINUATIONS):
            answer = self._fetcher.json(url, asked | continued)
            result.add(answer.get("query") or {})
            continued = {key: str(value) for key, value in (answer.get("continue") or {}).items()}
            if not continued:
                return result
        raise Temporary(f"{url} had not finished its answer after {MAX_CONTINUATIONS} parts")


class _Answer:
    """The parts of an answer to action=query, put together; pages are found by the title that was asked for."""

    def __init__(self) -> None:
        self._renamed: dict[str, str] = {}
        self._to_section: set[str] = set()
        self._elsewhere: set[str] = set()
        self.pages: dict[str, dict[str, Any]] = {}

    def add(self, query: dict[str, Any]) -> None:
        for key in ("normalized", "converted", "redirects"):
            for change in query.get(key, ()):
                self._renamed[change["from"]] = change["to"]
                if change.get("tofragment"):
                    self._to_section.add(change["from"])
        self._elsewhere.update(entry["title"] for entry in query.get("interwiki", ()))
        for page in query.get("pages", ()):
            self.pages.setdefault(page["title"], {}).update(page)

    def find(self, title: str) -> dict[str, Any] | None:
        """The page under a title; ``None`` where the answer says nothing of it."""
        seen: set[str] = set()
        while title not in self.pages and title in self._renamed and title not in seen:
            seen.add(title)
            title = self._renamed[title]
        if title in self.pages:
            return self.pages[title] | {"is_section": bool(seen & self._to_section)}
        return _NONE if title in self._elsewhere or title in seen else None  # seen: redirects in a circle


def _page(page: dict[str, Any]) -> dict[str, Any]:
    props = page.get("pageprops") or {}
    title, item, image = page.get("title"), props.get("wikibase_item"), page.get("pageimage")
    if page.get("missing") or page.get("invalid") or page.get("special") or page.get("ns", 0) != 0:
        outcome = "no such page"
    elif "disambiguation" in props:
        outcome = "disambiguation"
    elif page.get("is_section"):
        outcome = "a section of another page"
    else:
        outcome = "page" if item else "page without a Wikidata item"
    return {"outcome": outcome, "title": title, "item": item, "image": _file_name(image) if image else None}


def _item(entity: dict[str, Any]) -> dict[str, Any]:
    claims = entity.get("claims") or {}  # an empty list where there is none
    parents = _values(claims, "P279")
    return {
        "id": None if "missing" in entity else entity["id"],
        "classes": _values(claims, "P31") or parents,
        "parents": parents,
        "images": [_file_name(name) for name in _values(claims, "P18")],
    }


def _values(claims: dict[str, Any], prop: str) -> list[str]:
    """Item ids or strings, those of preferred rank first, deprecated ones left out."""
    found: dict[str, list[str]] = {"preferred": [], "normal": []}
    for claim in claims.get(prop, ()):
        snak = claim["mainsnak"]
        if snak.get("snaktype") == "value" and claim.get("rank") in found:
            value = snak["datavalue"]["value"]
            found[claim["rank"]].append(value if isinstance(value, str) else value["id"])
    return list(dict.fromkeys(found["preferred"] + found["normal"]))


def _file(page: dict[str, Any]) -> dict[str, Any]:
    info = (page.get("imageinfo") or [{}])[0]
    facts = {name: plain_text(str(field["value"])) for name, field in (info.get("extmetadata") or {}).items()}
    mime = info.get("mime", "")
    problem = None
    if not info or page.get("missing") or page.get("invalid"):
        problem = "not on Commons"
    elif facts.get("NonFree", "").lower() in ("1", "true", "yes"):
        problem = "not a free file"
    elif not mime.startswith("image/") or mime == "image/vnd.djvu":
        problem = "not an image"
    elif not info.get("thumburl"):
        problem = "no thumbnail"
    return {
        "problem": problem,
        "url": info.get("thumburl"),
        "licence": facts.get("LicenseShortName") or facts.get("License") or None,
        "author": facts.get("Artist") or facts.get("Credit") or None,
        "page": info.get("descriptionurl"),
    }


def _file_name(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("_", " ").strip())


def plain_text(markup: str) -> str:
    """The text of some HTML, on one line."""
    blocks = r"<(style|script)\b.*?</\1\s*>|<(?:br|p|div|li|td|tr)\b[^>]*>"
    text = re.sub(blocks, " ", markup, flags=re.IGNORECASE | re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", text)).split())
