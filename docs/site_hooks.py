"""Makes pages of the files at the repository's root, and checks links that leave ``docs/``.

On the site such a link becomes one to the page made of the file, or, where there is none, its text. In
the repository, where most people read, all of them are links. A link to a file that does not exist
fails the build, as MkDocs itself does for links within ``docs/``.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "bench/README.md": "bench.md",
}
SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"(?<!!)\[([^\]\[]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made of files outside of ``docs/``."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links as the site needs them."""
    uri = page.file.src_uri
    source = ROOT / SOURCES.get(uri, f"docs/{uri}")

    def rewritten(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match.group(0)
        path = Path(os.path.normpath(source.parent / target))
        if not path.exists():
            raise PluginError(f"{source.relative_to(ROOT)}: {target} does not exist")
        if path.is_dir() and (path / "README.md").exists():
            path /= "README.md"
        where = path.relative_to(ROOT).as_posix()
        if where in PAGES:
            destination = PAGES[where]
        elif where.startswith("docs/"):
            destination = where.removeprefix("docs/")
        else:
            return text
        relative = os.path.relpath(destination, Path(uri).parent)
        return f"[{text}]({relative}{anchor or ''})"

    return LINK.sub(rewritten, markdown)
