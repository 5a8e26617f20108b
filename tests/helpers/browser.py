"""A browser for tests: Chromium without a window, spoken to over a pipe, so that nothing but the
browser itself is needed. The messages are those of the Chrome DevTools Protocol.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TIMEOUT_S = 180.0  # for a machine that is busy with other things
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str | None:
    """The path of a browser that is installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Tab:
    """One page. `requests` are the addresses that it asked for, `complaints` what it logged."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._buffer = b""
        self._next = 0
        self._session: str | None = None
        self._loaded = 0
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def attach(self) -> None:
        """Open a page and listen to everything that it does."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def open(self, path: Path, *, width: int, dark: bool) -> None:
        """Load a file at a width in pixels, in a light or a dark scheme."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        before = self._loaded
        self.call("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + TIMEOUT_S
        while self._loaded == before:
            self._handle(self._read(end))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; a promise's once it is there."""
        options = {"returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self) -> bytes:
        """The whole page as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        return base64.b64decode(found["data"])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._next += 1
        message: dict[str, Any] = {"id": self._next, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + TIMEOUT_S
        while True:
            answer = self._read(end)
            if answer.get("id") == self._next:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self._handle(answer)

    def _read(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = end - time.monotonic()
            ready, _, _ = select.select([self._receive], [], [], max(left, 0))
            assert ready, "the browser does not answer"
            chunk = os.read(self._receive, 1 << 20)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _handle(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self._loaded += 1
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])
            case "Runtime.exceptionThrown" | "Runtime.consoleAPICalled":
                self.complaints.append(json.dumps(params))


@contextmanager
def browser(program: str) -> Iterator[Tab]:
    """Run a browser with one page."""
    to_read, to_write = os.pipe(), os.pipe()
    # The protocol's pipes are descriptors 3 (commands) and 4 (answers) of the browser; copied
    # twice first, so that neither copy is in the other's place.
    script = (
        "import os, sys; a, b = (os.dup(os.dup(int(fd))) for fd in sys.argv[1:3]); "
        "os.dup2(a, 3); os.dup2(b, 4); os.execv(sys.argv[3], sys.argv[3:])"
    )
    pipes = (to_read[0], to_write[1])
    # What the browser leaves behind goes into its own folder; a child that still writes when it is
    # removed does not matter.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--disable-sync"]
        options += ["--remote-debugging-pipe", "--hide-scrollbars", f"--user-data-dir={profile}"]
        options += ["--no-first-run", "--disable-background-networking", "--disable-quic"]
        options += ["--disable-component-update"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, pipes), program, *options],
            pass_fds=pipes,
            env={**os.environ, "TMPDIR": profile, "HOME": profile},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read[0])
        os.close(to_write[1])
        try:
            tab = Tab(to_read[1], to_write[0])
            tab.attach()
            yield tab
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # its children too
            process.wait()
            os.close(to_read[1])
            os.close(to_write[0])
