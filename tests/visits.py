"""Pages in a real browser, and what they complain of and ask for."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self

from playwright.sync_api import Browser, BrowserContext, Page

# Every text whose contrast with what is behind it is below 4.5, as WCAG AA asks for small print.
FAINT_TEXTS = """() => {
  const rgba = (colour) => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const behind = (node) => {
    if (!node) return [255, 255, 255, 1];
    const own = rgba(getComputedStyle(node).backgroundColor);
    return own[3] === 1 ? own : over(own, behind(node.parentElement));
  };
  const light = (colour) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [R, G, B] = colour.slice(0, 3).map((c) => linear(c / 255));
    return 0.2126 * R + 0.7152 * G + 0.0722 * B;
  };
  const faint = [];
  for (const node of document.querySelectorAll("body *:not(script):not(style)")) {
    const text = [...node.childNodes].filter((part) => part.nodeType === 3).map((part) => part.data.trim()).join("");
    if (!text || !node.checkVisibility()) continue;
    let opacity = 1;
    for (let at = node; at; at = at.parentElement) opacity *= getComputedStyle(at).opacity;
    const ground = behind(node), [r, g, b, a] = rgba(getComputedStyle(node).color);
    const [high, low] = [light(over([r, g, b, a * opacity], ground)), light(ground)].sort((x, y) => y - x);
    if ((high + 0.05) / (low + 0.05) < 4.5) faint.push([text.slice(0, 40), ((high + 0.05) / (low + 0.05)).toFixed(2)]);
  }
  return faint;
}"""


class Visits:
    """Opens pages of a browser.

    Attributes:
        faults: what the pages' consoles were told of as a warning or an error.
        requests: every address that was asked for.
    """

    def __init__(self, browser: Browser):
        self.faults: list[str] = []
        self.requests: list[str] = []
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self._folders: set[str] = set()

    def open(self, url: str, width: int = 1440, height: int = 900, **options: Any) -> Page:
        """A page in a window of its own."""
        context = self._browser.new_context(viewport={"width": width, "height": height}, **options)
        self._contexts.append(context)
        self._folders.add(url.split("#")[0].rpartition("/")[0] + "/")
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda told: self.faults.append(told.text) if told.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(url)
        return page

    def end(self) -> None:
        """Close all, and look back."""
        for context in self._contexts:
            context.close()
        assert not self.faults, self.faults
        folders = (*self._folders, "data:")
        elsewhere = [url for url in self.requests if not url.startswith(folders)]
        assert not elsewhere, elsewhere


class StaticServer:
    """Serves a folder over HTTP as a bucket does: files, and nothing but files.

    Attributes:
        url: of the folder.
    """

    def __init__(self, folder: str):
        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
