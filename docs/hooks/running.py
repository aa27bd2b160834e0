"""Code of a page runs while the site is built, and what it prints and draws is shown below it.

Start at `on_page_markdown`. Pages are written as plain Markdown; here their blocks of Python, and of commands with a
prompt (`console`), get the words by which markdown-exec runs them: the blocks of a page share their names and an empty
folder. A picture that is called by its bare name, `![what it shows](leaves.png)`, is the file of this name that the
page's code has written into that folder. Code that fails, and a picture that no code has made, are warnings, which end
a strict build. Used by mkdocs.yml.
"""

from __future__ import annotations

import html
import os
import re
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

BLOCK = re.compile(
    r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
PICTURE = re.compile(r"^!\[([^\]]*)\]\(([\w-]+\.png)\)$", re.MULTILINE)
EMBEDDED = """
```python exec="on" html="on" session="{session}" workdir="{folder}"
import base64
with open({name!r}, "rb") as file:
    print({start!r} + base64.b64encode(file.read()).decode() + {end!r})
```
"""
_running = ExitStack()  # what lasts as long as the process
_opened = ExitStack()  # what lasts as long as a build: the folders of its pages


def on_startup(*, command: str, dirty: bool) -> None:
    """Before anything is imported: pictures need no window, compiled programs are kept for the next build."""
    source = Path(__file__).resolve().parents[2] / "src"
    sys.path.insert(0, str(source))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(source), os.environ.get("PYTHONPATH", "")]
    ).strip(os.pathsep)
    os.environ["PATH"] = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    )
    os.environ["MPLBACKEND"] = "agg"
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(caches / "poplin"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    from poplin import _numerics

    _numerics.SMALL = float("inf")
    _running.enter_context(
        _numerics.hurried(tells_all=False)
    )  # as `poplin fit` does: each program runs once


def on_page_markdown(markdown: str, *, page, config, files) -> str:
    """The page with its blocks marked as code to be run."""
    if not BLOCK.search(markdown):
        return markdown
    folder = _opened.enter_context(
        tempfile.TemporaryDirectory(prefix="poplin-page-")
    )
    session = f"{page.file.src_uri} in {Path(folder).name}"  # built anew, a page begins anew
    place = f'session="{session}" workdir="{folder}"'

    def marked(block: re.Match[str]) -> str:
        language, code = block.groups()
        if language == "console":
            shown = 'source="console"'
        else:
            shown = (
                'source="block" result="text"'
                if "print(" in code
                else 'source="above"'
            )
        return f'```{language} exec="on" {shown} {place}\n{code}```'

    def embedded(picture: re.Match[str]) -> str:
        alt, name = picture.groups()
        start = f'<p><img class="drawn" alt="{html.escape(alt)}" src="data:image/png;base64,'
        return EMBEDDED.format(
            session=session, folder=folder, name=name, start=start, end='"></p>'
        )

    return PICTURE.sub(embedded, BLOCK.sub(marked, markdown))


def on_post_build(*, config) -> None:
    """The pages' folders go."""
    _opened.close()


def on_shutdown() -> None:
    """Compiling is as usual again."""
    _running.close()
