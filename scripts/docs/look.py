"""The built site as readers see it: `python -m scripts.docs.look FOLDER`.

Pictures of pages on a desktop and a phone, light and dark, go to the folder; the height
of every page at 1440 pixels is printed.  Chromium draws, and asks no other machine.
"""

import functools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

PAGES: Final = (
    "",
    "howto/rotate-key/",
    "promotion/",
    "reference/stack/server/",
    "monitoring/",
    "report/",
    "gates/",
)
"""Of each kind one: landing page, how-to, explanation, reference, what is shown."""
SIZES: Final = {"desktop": (1440, 1400), "phone": (390, 1400)}
SCHEMES: Final = {"light": (), "dark": ("--blink-settings=preferredColorScheme=0",)}
_MEASURE: Final = """\
<body><script>
async function measure(page) {
  const frame = document.createElement("iframe");
  frame.style = "width: 1440px; height: 900px; border: 0";
  const loaded = new Promise(done => frame.onload = done);
  frame.src = page;
  document.body.append(frame);
  await loaded;
  const height = frame.contentDocument.documentElement.scrollHeight;
  frame.remove();
  return height;
}
(async () => {
  const heights = {};
  for (const page of PAGES) heights[page] = await measure(page);
  document.body.textContent = "HEIGHTS" + JSON.stringify(heights) + "END";
})();
</script>
"""


def main() -> None:
    """Build the site, draw its pages into the folder of the command line, measure."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m scripts.docs.look FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as made:
        argv = (sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", made)
        subprocess.run(argv, check=True)
        with served(Path(made)) as url:
            for page in PAGES:
                for size, window in SIZES.items():
                    for scheme, flags in SCHEMES.items():
                        name = page.strip("/").replace("/", "-") or "index"
                        file = folder / f"{name}-{size}-{scheme}.png"
                        _draw(f"{url}/{page}", file, window, flags)
        for page, height in sorted(heights(Path(made)).items(), key=lambda it: it[1]):
            print(f"{height:6} {page}")  # noqa: T201 - what the script is asked for


def heights(site: Path) -> Mapping[str, int]:
    """The height in pixels of every page of a built site, 1440 pixels wide."""
    pages = [str(it.relative_to(site)) for it in sorted(site.rglob("index.html"))]
    measuring = site / "measure.html"
    measuring.write_text(_MEASURE.replace("PAGES", json.dumps(pages), 1), "utf-8")
    with served(site) as url:
        page = f"{url}/measure.html"
        dom = _chromium("--virtual-time-budget=600000", "--dump-dom", page)
    measuring.unlink()
    found = re.search(r"HEIGHTS(.*?)END", dom, re.DOTALL)
    if found is None:
        raise ValueError("the pages were not measured")
    measured: dict[str, int] = json.loads(found[1])
    return measured


@contextmanager
def served(site: Path) -> Iterator[str]:
    """A folder as a site of loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *said: object) -> None:
            del said

    make = functools.partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), make) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _draw(
    url: str, file: Path, window: tuple[int, int], flags: tuple[str, ...]
) -> None:
    size = "--window-size={},{}".format(*window)
    _chromium(size, *flags, f"--screenshot={file.resolve()}", url)


def _chromium(*words: str) -> str:
    """What Chromium prints; its profile is gone afterwards."""
    quiet = ("background-networking", "component-update", "sync", "quic", "gpu")
    with TemporaryDirectory() as profile:
        argv = (
            *("chromium", "--headless", "--no-sandbox", "--no-first-run"),
            *(f"--disable-{name}" for name in quiet),
            *("--hide-scrollbars", f"--user-data-dir={profile}"),
            *words,
        )
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return done.stdout


if __name__ == "__main__":
    main()
