"""A browser for tests: headless Chromium, spoken to through chromedriver with the standard library alone.

Start at `browsing`. There is no network for it: every name fails to resolve. What the page complains about is kept.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1100,900", "--disable-dev-shm-usage"),
)
PATIENCE = 60.0  # seconds


def programs() -> tuple[str, str] | None:
    """Chromium and its driver, or None where they are not installed (Debian: chromium, chromium-driver)."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return None if browser is None or driver is None else (browser, driver)


class Browser:
    """One page at a time."""

    def __init__(self, address: str, session: str) -> None:
        self.address = f"{address}/session/{session}"

    def open(self, page: Path) -> None:
        """Show a file."""
        ask(f"{self.address}/url", {"url": page.absolute().as_uri()})

    def run(self, script: str, *given: Any) -> Any:
        """What a piece of JavaScript returns; `given` are its arguments."""
        return ask(f"{self.address}/execute/sync", {"script": script, "args": list(given)})

    def point(self, choice: str) -> None:
        """Move the pointer to the middle of the first element that a CSS selector finds."""
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", choice)
        place = (
            "const b = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]"
        )
        x, y = self.run(place, choice)
        move = {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}
        pointer = {
            "type": "pointer",
            "id": "mouse",
            "parameters": {"pointerType": "mouse"},
            "actions": [move],
        }
        ask(f"{self.address}/actions", {"actions": [pointer]})

    def complaints(self) -> list[str]:
        """What the console said since it was last asked."""
        return [line["message"] for line in ask(f"{self.address}/se/log", {"type": "browser"})]

    def picture(self, target: Path) -> None:
        """What is to be seen, as PNG."""
        import base64

        target.write_bytes(base64.b64decode(ask(f"{self.address}/screenshot", None)))


def ask(address: str, given: dict[str, Any] | None, method: str | None = None) -> Any:
    """One request of the WebDriver protocol; its value."""
    body = None if given is None else json.dumps(given).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(f"{address.rsplit('/', 1)[-1]}: {error.read().decode()[:500]}") from None


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser with a profile of its own, closed afterwards."""
    found = programs()
    assert found is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as profile:
        driver = subprocess.Popen(
            [found[1], f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=profile
        )
        try:
            _wait(address)
            chrome = {"binary": found[0], "args": [*SWITCHES, f"--user-data-dir={profile}/user"]}
            wanted = {"goog:chromeOptions": chrome, "goog:loggingPrefs": {"browser": "ALL"}}
            session = ask(f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            try:
                yield Browser(address, session)
            finally:
                ask(f"{address}/session/{session}", None, "DELETE")
        finally:
            driver.terminate()
            driver.wait(PATIENCE)


def _wait(address: str) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if ask(f"{address}/status", None)["ready"]:
                return
        except (OSError, AssertionError):
            if time.monotonic() > end:
                raise
        time.sleep(0.1)
