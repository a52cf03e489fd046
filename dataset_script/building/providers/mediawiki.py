"""The APIs of MediaWiki, Wikidata and Commons: what is asked of them, and their answers in plain terms.

https://www.mediawiki.org/wiki/API:Query, https://www.wikidata.org/w/api.php, and prop=imageinfo of Commons.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

from .fetching import Fetcher, Temporary

BATCH = 50
"""Titles, or ids, a request: the most that clients without special rights may ask for."""
MAX_TITLES_LENGTH = 6000
"""Characters of the titles of a request as they stand in the URL: servers refuse URLs of more than about 8,000."""
MAX_LINKS = 500
MAX_CONTINUATIONS = 200
_BAD_TITLE = re.compile(r"[#<>\[\]{}|_\x00-\x1f\x7f\ufffd]|^:|^\s*$|%[0-9A-Fa-f]{2}|&[A-Za-z0-9]+;|^\.{1,2}$|~~~")
_METADATA = ("LicenseShortName", "License", "UsageTerms", "Artist", "Credit", "NonFree")


@dataclass(frozen=True)
class Page:
    """What a wiki has under a title.

    Attributes:
        outcome: ``page``, ``disambiguation``, or why there is none.
        title: of the page, after normalisation and redirects.
        item: the Wikidata item of the page.
        image: the file name of the free picture of the page.
    """

    outcome: str
    title: str | None = None
    item: str | None = None
    image: str | None = None


@dataclass(frozen=True)
class Item:
    """A Wikidata item: the id that it has now, and those of its values that matter, deprecated ones left out.

    Attributes:
        classes: the classes that it is an instance of; where none is stated, those that it is a subclass of.
        parents: the classes that it is a subclass of.
        images: file names on Commons, those of preferred rank first.
    """

    id: str
    classes: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class File:
    """A file on Commons; ``problem`` says why there is nothing to fetch.

    Attributes:
        url: of the thumbnail.
        licence: its short name, ``None`` where none is stated.
        page: the URL of its description.
    """

    problem: str | None = None
    url: str | None = None
    mime: str = ""
    licence: str | None = None
    author: str | None = None
    page: str | None = None


def title_of(surface: str) -> str | None:
    """The page title for a name whose tokens are joined by blanks, or ``None`` where no page can have it."""
    text = unicodedata.normalize("NFC", " ".join(surface.split()))
    text = re.sub(r" ([.,:;!?)\]]|['’]s?(?= |$))", r"\1", text)
    text = re.sub(r"([(\[]) ", r"\1", text)
    text = re.sub(r"(?<!\w)([dlDL]|[Qq]u|O)(['’]) (?=\w)", r"\1\2", text)  # d' Ivoire, L' Aquila, O' Neill
    text = re.sub(r"(?<=\w) - (?=\w)", "-", text)
    if _BAD_TITLE.search(text) or len(text.encode()) > 255:
        return None
    return text


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
    """The three APIs. What an answer says nothing of is missing from what is returned.

    Args:
        wikipedia: URL of a Wikipedia's ``api.php`` with ``{lang}`` in it.
        wikidata, commons: those of Wikidata and Wikimedia Commons.
        maxlag_s: servers that lag more than this, in seconds, are left alone for a while.
    """

    def __init__(self, fetcher: Fetcher, wikipedia: str, wikidata: str, commons: str, maxlag_s: int = 5):
        if "{lang}" not in wikipedia:
            raise ValueError(f"The URL of Wikipedia is {wikipedia!r}; expected one with {{lang}} in it.")
        self._fetcher = fetcher
        self._wikipedia, self._wikidata, self._commons = wikipedia, wikidata, commons
        self._common = {"format": "json", "formatversion": "2", "maxlag": str(maxlag_s)}

    def pages(self, lang: str, titles: Sequence[str]) -> dict[str, Page]:
        """The pages of up to ``BATCH`` titles, redirects followed."""
        answer = self._query(
            self._wikipedia.format(lang=lang),
            titles="|".join(titles),
            redirects="1",
            prop="pageprops|pageimages",
            ppprop="wikibase_item|disambiguation",
            piprop="name",
            pilicense="free",
            pilimit=str(BATCH),
        )
        return {title: _page(found) for title, found in answer.find(titles).items()}

    def linked_items(self, lang: str, title: str) -> list[str] | None:
        """The items of the articles that a page links to, disambiguation pages left out.

        ``None`` where it links to more than ``MAX_LINKS``.
        """
        answer = self._query(
            self._wikipedia.format(lang=lang),
            titles=title,
            redirects="1",
            generator="links",
            gplnamespace="0",
            gpllimit=str(MAX_LINKS),
            prop="pageprops",
            ppprop="wikibase_item|disambiguation",
        )
        if answer.more_links:
            return None
        found = [_page(_Found(page, False)) for page in answer.pages.values()]
        return sorted({page.item for page in found if page.outcome == "page" and page.item})

    def items(self, ids: Sequence[str]) -> dict[str, Item | None]:
        """The items of up to ``BATCH`` ids, ``None`` for one that is gone; merged items by the id they were asked for.

        These answers are large, and are not cached: the caller keeps what it needs of them.
        """
        answer = self._fetcher.json(
            self._wikidata,
            self._common | {"action": "wbgetentities", "ids": "|".join(ids), "props": "claims"},
            cached=False,
        )
        entities = answer.get("entities") or {}
        found = {item_id: _item(entities[item_id]) for item_id in ids if item_id in entities}
        if not found:
            raise Temporary(f"{self._wikidata} answered for none of {', '.join(ids)}")
        return found

    def files(self, names: Sequence[str], width_px: int) -> dict[str, File]:
        """The files of up to ``BATCH`` names, without their namespace, and thumbnails of a width."""
        titles = {name: f"File:{name}" for name in names}
        answer = self._query(
            self._commons,
            titles="|".join(titles.values()),
            redirects="1",
            prop="imageinfo",
            iiprop="url|size|mime|extmetadata",
            iiurlwidth=str(width_px),
            iiextmetadatalanguage="en",
            iiextmetadatafilter="|".join(_METADATA),
        )
        found = answer.find(list(titles.values()))
        return {name: _file(found[title]) for name, title in titles.items() if title in found}

    def _query(self, url: str, **params: str) -> "_Answer":
        result = _Answer(url)
        continued: dict[str, str] = {}
        for _ in range(MAX_CONTINUATIONS):
            answer = self._fetcher.json(url, self._common | {"action": "query"} | params | continued)
            result.add(answer.get("query") or {})
            continued = {key: str(value) for key, value in (answer.get("continue") or {}).items()}
            if not continued:
                return result
            if "gplcontinue" in continued:
                result.more_links = True
                return result
        raise Temporary(f"{url} had not finished its answer after {MAX_CONTINUATIONS} parts")


@dataclass(frozen=True)
class _Found:
    page: dict[str, Any] | None
    section: bool


class _Answer:
    """The parts of an answer to action=query, put together; pages are found by the title that was asked for."""

    def __init__(self, url: str):
        self._url = url
        self._renamed: dict[str, str] = {}
        self._sections: set[str] = set()
        self._elsewhere: set[str] = set()
        self.pages: dict[str, dict[str, Any]] = {}
        self.more_links = False

    def add(self, query: dict[str, Any]) -> None:
        for key in ("normalized", "converted", "redirects"):
            for change in query.get(key, ()):
                self._renamed[change["from"]] = change["to"]
                if change.get("tofragment"):
                    self._sections.add(change["from"])
        self._elsewhere.update(entry["title"] for entry in query.get("interwiki", ()))
        for page in query.get("pages", ()):
            self.pages.setdefault(page["title"], {}).update(page)

    def find(self, titles: Sequence[str]) -> dict[str, _Found]:
        """What there is under each title, for those that the answer says something of."""
        found = {title: self._find(title) for title in titles}
        if not any(found.values()):
            raise Temporary(f"{self._url} answered for none of {', '.join(titles)}")
        return {title: page for title, page in found.items() if page}

    def _find(self, title: str) -> _Found | None:
        at, seen, section = title, {title}, False
        while at not in self.pages:
            section = section or at in self._sections
            if at in self._elsewhere:
                return _Found(None, section)
            if at not in self._renamed:
                return None
            at = self._renamed[at]
            if at in seen:  # redirects in a circle
                return _Found(None, section)
            seen.add(at)
        return _Found(self.pages[at], section)


def _page(found: _Found) -> Page:
    page = found.page
    if page is None or page.get("missing") or page.get("invalid") or page.get("special") or page.get("ns", 0) != 0:
        return Page("no such page")
    props = page.get("pageprops") or {}
    title, item = page["title"], props.get("wikibase_item")
    if "disambiguation" in props:
        return Page("disambiguation", title, item)
    if found.section:
        return Page("a section of another page", title)
    if not item:
        return Page("page without a Wikidata item", title)
    image = page.get("pageimage")
    return Page("page", title, item, _file_name(image) if image else None)


def _item(entity: dict[str, Any]) -> Item | None:
    if "missing" in entity:
        return None
    claims = entity.get("claims") or {}  # an empty list where there is none
    parents = _values(claims, "P279")
    images = tuple(_file_name(name) for name in _values(claims, "P18"))
    return Item(entity["id"], _values(claims, "P31") or parents, parents, images)


def _values(claims: dict[str, Any], prop: str) -> tuple[str, ...]:
    """Item ids or strings, those of preferred rank first, deprecated ones left out."""
    found: dict[str, list[str]] = {"preferred": [], "normal": []}
    for claim in claims.get(prop, ()):
        snak = claim["mainsnak"]
        if snak.get("snaktype") == "value" and claim.get("rank") in found:
            value = snak["datavalue"]["value"]
            text = value if isinstance(value, str) else value["id"]
            found[claim["rank"]].append(text)
    return tuple(dict.fromkeys(found["preferred"] + found["normal"]))


def _file(found: _Found) -> File:
    page = found.page
    if page is None or page.get("missing") or page.get("invalid") or not page.get("imageinfo"):
        return File("not on Commons")
    info = page["imageinfo"][0]
    facts = {name: plain_text(str(field["value"])) for name, field in (info.get("extmetadata") or {}).items()}
    mime = info.get("mime", "")
    licence = facts.get("LicenseShortName") or facts.get("License") or None
    if facts.get("NonFree", "").lower() in ("1", "true", "yes"):
        problem = "not a free file"
    elif not mime.startswith("image/") or mime == "image/vnd.djvu":
        problem = "not a picture"
    elif not info.get("thumburl"):
        problem = "no thumbnail"
    else:
        problem = None
    author = facts.get("Artist") or facts.get("Credit") or None
    return File(problem, info.get("thumburl"), mime, licence, author, info.get("descriptionurl"))


def _file_name(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("_", " ").strip())


def plain_text(html: str) -> str:
    """The text of a piece of HTML, on one line."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return " ".join("".join(parser.parts).split())


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("style", "script"):
            self._hidden = tag
        elif tag in ("br", "p", "div", "li", "td", "tr"):
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._hidden:
            self._hidden = None

    def handle_data(self, data: str) -> None:
        if self._hidden is None:
            self.parts.append(data)
