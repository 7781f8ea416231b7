"""A headless Chromium for the tests of pages, driven over its debugging pipe: no driver, no network, no further package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe", "about:blank"),
)
TIMEOUT = 60.0  # seconds that one answer may take


def chromium() -> str:
    """The browser's path; without one the test is skipped, or fails where one is required."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found:
        return found
    reason = "no chromium on this machine (apt-get install chromium)"
    if os.environ.get("CI") == "true" and os.environ.get("LORCBENCH_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


class Browser:
    """One page of one Chromium.

    Attributes:
        requests: every address that the page asked for.
        errors: uncaught exceptions and what the console says of errors and warnings.
    """

    def __init__(self, width: int = 1400, height: int = 1000) -> None:
        executable = chromium()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._profile = tempfile.mkdtemp(prefix="lorcbench-chromium-")
        ours, theirs = _pipes()
        flags = [*FLAGS[:-1], f"--user-data-dir={self._profile}", FLAGS[-1]]
        # Chromium reads commands from descriptor 3 and answers on 4.
        command = ["bash", "-c", f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}', "bash", executable, *flags]
        self._process = subprocess.Popen(command, pass_fds=theirs, stderr=subprocess.DEVNULL, start_new_session=True)
        for descriptor in theirs:
            os.close(descriptor)
        self._answers, self._commands = os.fdopen(ours[0], "rb", 0), os.fdopen(ours[1], "wb", 0)
        self._buffer, self._last, self._session = b"", 0, None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.resize(width, height)
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Load a page, afresh if only its fragment differs, and wait until it is loaded."""
        for address in ("about:blank", url):
            self._loaded = False
            self._call("Page.navigate", url=address)
            self._until(lambda: self._loaded, f"{address} to load")

    def scheme(self, name: str) -> None:
        """``light`` or ``dark``."""
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def resize(self, width: int, height: int) -> None:
        """Another size of the window."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.run("new Promise(done => setTimeout(done, 100))")

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self._call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])

    def run(self, script: str):
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = TIMEOUT) -> None:
        """Wait until a JavaScript expression is true."""
        self._until(lambda: self.run(f"Boolean({script})"), script, seconds)

    def screenshot(self, path: Path, whole: bool = False) -> bytes:
        """Write a PNG of what is seen, or of the whole page."""
        data = base64.b64decode(self._call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])
        path.write_bytes(data)
        return data

    def close(self) -> None:
        """End the browser and remove its profile."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._answers.close()
        self._commands.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def _until(self, holds, what: str, seconds: float = TIMEOUT) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
            self._call("Runtime.evaluate", expression="new Promise(r => setTimeout(r, 50))", awaitPromise=True)

    def _call(self, method: str, **params) -> dict:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._notice(answer.get("method"), answer.get("params", {}))

    def _receive(self) -> dict:
        while b"\0" not in self._buffer:
            part = self._answers.read(1 << 20)
            assert part, "the browser ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _notice(self, event: str, params: dict) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(params["args"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])


def _pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    """Our ends (to read, to write) and the browser's, all above the descriptors that a shell can name with one digit."""
    ends = []
    for end in (*os.pipe(), *os.pipe()):
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    answers_out, answers_in, commands_out, commands_in = ends
    return (answers_out, commands_in), (commands_out, answers_in)
