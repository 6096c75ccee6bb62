"""Whether every link inside a built site leads somewhere: `check_links.py build/book`.

Links to other sites are not tried: nothing here needs the internet.
"""

import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup


def broken_links(site: Path) -> list[str]:
    """Each as "page: address", where a page, a file, or the place in a page is missing."""
    files = sorted(site.resolve().rglob("*.html"))
    written = [path for path in files if "_static" not in path.parts]  # the theme keeps templates of its own there
    pages = {path: BeautifulSoup(path.read_bytes(), "html.parser") for path in written}
    places = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    broken = []
    for path, page in pages.items():
        addresses = {tag.get("href", tag.get("src")) for tag in page.select("[href], [src]")}
        for address in sorted(addresses):
            parts = urlsplit(address)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme or parts.netloc:
                continue
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in places.get(target, ())):
                broken.append(f"{path.relative_to(site.resolve())}: {address}")
    return broken


if __name__ == "__main__":
    found = broken_links(Path(sys.argv[1]))
    print(*found, f"{len(found)} broken links", sep="\n")
    sys.exit(bool(found))
