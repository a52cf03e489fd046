"""A loopback server that answers like the APIs of Wikipedia, Wikidata and Commons, and fails when it is told to.

The shapes of the answers are those of formatversion=2, as https://www.mediawiki.org/wiki/API:Query documents them.
"""

import json
import re
import time
from collections import Counter
from urllib.parse import parse_qs, quote, unquote, urlsplit

from loopback import Fault, Handler, Loopback
from PIL import Image
from test_load_image import encoded

from dataset_script.building.providers.mediawiki import MediaWiki


def picture(name: str, width: int = 60, kind: str = "JPEG") -> bytes:
    """A picture that is the same for the same name, and different for another."""
    seed = sum(ord(letter) * (place + 1) for place, letter in enumerate(name))
    image = Image.new("RGB", (width, 40), (seed % 256, seed // 3 % 256, seed // 7 % 256))
    image.putpixel((seed % width, seed % 40), (255, 255, 255))
    return encoded(image, kind)


class _Handler(Handler):
    def do_GET(self) -> None:
        self.server.owner.answer(self)


class WikimediaServer(Loopback):
    """``pages[lang][title]``: dicts of item, image, disambiguation; ``redirects[lang][title]``: (to, fragment).

    ``items[id]``: dicts of P31, P279, P18 (lists of values or of (value, rank)), or ``merged`` into another id.
    ``files[name]``: dicts of mime, licence, artist, ...; ``raw[path]``: (content type, bytes).
    ``silent``: titles and ids that answers leave out. Besides a status and ``cut``, answers may be ``truncated``,
    ``maxlag``, ``html`` or ``junk``.
    """

    handler = _Handler

    def __init__(self) -> None:
        super().__init__()
        self.pages: dict[str, dict[str, dict]] = {}
        self.redirects: dict[str, dict[str, tuple[str, str | None]]] = {}
        self.items: dict[str, dict] = {}
        self.files: dict[str, dict] = {}
        self.raw: dict[str, tuple[str, bytes]] = {}
        self.agents: set[str] = set()
        self.passwords: set[str] = set()
        self.violations: list[str] = []
        self.most_at_once = 0
        self.props_a_part = 50
        self.delay_s = 0.0
        self.silent: set[str] = set()
        self._now = 0
        self._server.handle_error = lambda *arguments: None  # a client that has read enough

    def apis(self, fetcher: object) -> MediaWiki:
        """What the provider asks, in place of the real ones."""
        api = "/w/api.php"
        return MediaWiki(fetcher, self.url + "/{lang}" + api, f"{self.url}/wikidata{api}", f"{self.url}/commons{api}")

    def asked(self, pattern: str) -> list[str]:
        """The requests so far whose path and query match."""
        return [line for line in self.requests if re.search(pattern, line)]

    def downloads(self) -> Counter[str]:
        """The thumbnails that were asked for."""
        return Counter(unquote(line) for line in self.asked("^/thumb/"))

    def add_entity(
        self, lang: str, title: str, item: str, classes: list[str], image: str | None, **file: object
    ) -> None:
        """A page, its item, and the item's picture."""
        self.pages.setdefault(lang, {})[title] = {"item": item}
        self.items[item] = {"P31": classes, "P18": [image] if image else []}
        if image:
            self.files[image] = {"licence": "CC BY-SA 4.0", "artist": "<a href='x'>Someone</a>", **file}

    def answer(self, handler: Handler) -> None:
        fault = self.take(handler.path)
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            self.agents.add(handler.headers.get("User-Agent", ""))
            self.passwords.update(handler.headers.get_all("Authorization", []))
        try:
            time.sleep(self.delay_s)
            self._send(handler, fault)
        finally:
            with self._lock:
                self._now -= 1

    def _send(self, handler: Handler, fault: Fault | None) -> None:
        status, headers, body = self._respond(handler.path)
        how = fault.how if fault else ""
        if how.isdigit():
            status, headers, body = int(how), {"Content-Type": "text/html"}, b"<html>error</html>"
        elif how == "html":
            headers, body = {"Content-Type": "text/html; charset=utf-8"}, b"<html>hello</html>"
        elif how == "truncated":  # whole, as far as HTTP can tell
            body = body[: len(body) // 2]
        elif how == "junk":
            body = b"not what it says"
        elif how == "maxlag":
            error = {"code": "maxlag", "info": "Waiting for host: 7 seconds lagged", "host": "host", "lag": 7}
            body = json.dumps({"error": error}).encode()
        elif how == "cut":
            headers = headers | {"Content-Length": str(len(body))}
            body, handler.close_connection = body[: len(body) // 2], True
        handler.send(status, headers | (fault.headers if fault else {}), body)

    def _respond(self, target: str) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(target)
        path = unquote(parts.path)
        if path in self.raw:
            kind, body = self.raw[path]
            if kind.startswith("->"):
                return 302, {"Location": kind[2:]}, b""
            return 200, {"Content-Type": kind} if kind else {}, body
        if path.startswith("/thumb/"):
            _, _, width, name = path.split("/", 3)
            file = self.files[name]
            kind = file.get("thumb", "PNG" if name.endswith(".svg") else "JPEG")
            body = picture(name, min(int(width), file.get("width", 4000)), kind)
            return 200, {"Content-Type": f"image/{kind.lower()}"}, body
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if not path.endswith("/w/api.php"):
            return 404, {"Content-Type": "text/html"}, b"<html>not found</html>"
        wiki = path.split("/")[1]
        if query.get("maxlag") is None or query.get("formatversion") != "2" or query.get("format") != "json":
            self.violations.append(f"parameters missing: {target}")
        answer = self._entities(query) if wiki == "wikidata" else self._query(wiki, query)
        return 200, {"Content-Type": "application/json; charset=utf-8"}, json.dumps(answer).encode()

    def _too_many(self, values: list[str]) -> dict | None:
        if len(values) <= 50:
            return None
        self.violations.append(f"{len(values)} values in one request")
        return {"error": {"code": "toomanyvalues", "info": "Too many values supplied"}}

    def _entities(self, query: dict[str, str]) -> dict:
        ids = query["ids"].split("|")
        entities: dict[str, dict] = {}
        for item_id in ids:
            if item_id in self.silent:
                continue
            item = self.items.get(item_id)
            if item is None:
                entities[item_id] = {"id": item_id, "missing": True}
                continue
            now = item.get("merged", item_id)
            entity = {"type": "item", "id": now, "claims": _claims(self.items[now])}
            if now != item_id:
                entity["redirects"] = {"from": item_id, "to": now}
            entities[item_id] = entity
        return self._too_many(ids) or {"entities": entities, "success": 1}

    def _query(self, wiki: str, query: dict[str, str]) -> dict:
        titles = query["titles"].split("|")
        result: dict[str, list] = {"normalized": [], "redirects": [], "interwiki": []}
        found: dict[str, dict] = {}
        for title in titles:
            normal = title[:1].upper() + title[1:].replace("_", " ")
            if re.match("(de|fr|es|en|mw):", title):
                result["interwiki"].append({"title": title, "iw": title[:2]})
                continue
            if normal != title:
                result["normalized"].append({"fromencoded": False, "from": title, "to": normal})
            circle: set[str] = set()
            while query.get("redirects") and normal in self.redirects.get(wiki, {}) and normal not in circle:
                circle.add(normal)
                to, fragment = self.redirects[wiki][normal]
                entry = {"from": normal, "to": to} | ({"tofragment": fragment} if fragment else {})
                if entry not in result["redirects"]:
                    result["redirects"].append(entry)
                normal = to
            if normal not in circle:
                found[normal] = self._page(wiki, normal, query)
        answer: dict = {"batchcomplete": True}
        if "pageprops" in query.get("prop", "") and len(found) > self.props_a_part:
            # The properties come in parts, all pages in each of them.
            start = int(query.get("ppcontinue", 0))
            names = list(found)
            for name in names[:start] + names[start + self.props_a_part :]:
                found[name].pop("pageprops", None)
            if start + self.props_a_part < len(names):
                answer = {"continue": {"ppcontinue": str(start + self.props_a_part), "continue": "||pageimages"}}
        result["pages"] = [page for title, page in found.items() if title not in self.silent]
        return self._too_many(titles) or answer | {"query": {key: value for key, value in result.items() if value}}

    def _page(self, wiki: str, title: str, query: dict[str, str]) -> dict:
        if wiki == "commons":
            return self._file(title, int(query["iiurlwidth"]))
        page = self.pages.get(wiki, {}).get(title)
        if page is None:
            return {"ns": 0, "title": title, "missing": True}
        answer: dict = {"pageid": abs(hash(title)) % 10**6, "ns": page.get("ns", 0), "title": title}
        props = {"wikibase_item": page["item"]} if page.get("item") else {}
        if page.get("disambiguation"):
            props["disambiguation"] = ""
        if props:
            answer["pageprops"] = props
        if "pageimages" in query.get("prop", "") and page.get("image"):
            answer["pageimage"] = page["image"].replace(" ", "_")
        return answer

    def _file(self, title: str, width: int) -> dict:
        name = title.removeprefix("File:")
        file = self.files.get(name)
        if file is None:
            return {"ns": 6, "title": title, "missing": True, "imagerepository": ""}
        metadata = {"LicenseShortName": file.get("licence"), "Artist": file.get("artist"), **file.get("metadata", {})}
        info = {
            "thumburl": f"{self.url}/thumb/{width}/{quote(name)}",
            "descriptionurl": f"https://commons.wikimedia.org/wiki/File:{quote(name.replace(' ', '_'))}",
            "mime": file.get("mime", "image/jpeg"),
            "extmetadata": {key: {"value": value} for key, value in metadata.items() if value is not None},
        }
        return {"pageid": 1, "ns": 6, "title": title, "imagerepository": "local", "imageinfo": [info]}


def _claims(item: dict) -> dict:
    claims: dict[str, list] = {}
    for prop in ("P31", "P279", "P18"):
        for entry in item.get(prop, ()):
            value, rank = entry if isinstance(entry, tuple) else (entry, "normal")
            snak: dict = {"snaktype": "value", "property": prop}
            if value is None:
                snak["snaktype"] = "somevalue"
            elif prop == "P18":
                snak["datavalue"] = {"value": value, "type": "string"}
            else:
                entity = {"entity-type": "item", "numeric-id": int(value[1:]), "id": value}
                snak["datavalue"] = {"value": entity, "type": "wikibase-entityid"}
            claims.setdefault(prop, []).append({"mainsnak": snak, "type": "statement", "rank": rank})
    return claims
