"""Runs cases of the Autobahn test suite against one server; in the virtual environment that `suite.py` makes.

::

    python client.py ws://127.0.0.1:8000/ws results.json 1.* 2.*

A result is written for each case: ``id``, ``behavior``, ``behaviorClose``, why (``result``, ``resultClose``), what the
server's close frame said, how long it took in milliseconds, and what went over the wire where the suite keeps that.
Besides them ``missing``, the cases that were not run, and ``errors``, which are the suite's own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import txaio

txaio.use_twisted()

# After `use_twisted`, which they need.
from autobahntestsuite import fuzzing  # noqa: E402
from autobahntestsuite.python2 import as_bytes  # noqa: E402
from twisted.internet import reactor  # noqa: E402
from twisted.logger import LogLevel, formatEvent, globalLogPublisher  # noqa: E402

txaio.config.loop = reactor
#: What is kept of a result.
KEPT = (
    *("id", "behavior", "behaviorClose", "result", "resultClose", "duration", "wirelog", "httpRequest", "httpResponse"),
    *("localCloseCode", "remoteCloseCode", "remoteCloseReason"),
    *("closedByMe", "failedByMe", "droppedByMe", "wasClean", "wasNotCleanReason"),
)


class Protocol(fuzzing.FuzzingClientProtocol):  # type: ignore[misc]
    """The suite's client, which takes str of latin-1 for bytes."""

    def sendFrame(self, opcode: int, payload: str | bytes = b"", **options: Any) -> None:
        payload = as_bytes(payload)
        length = options.pop("payload_len", None)
        if length is not None:
            # autobahn repeats a payload with a division that is right in Python 2 only.
            payload = (payload * (length // len(payload) + 1))[:length]
        super().sendFrame(opcode, payload, **options)

    def sendMessage(self, payload: str | bytes, *arguments: Any, **options: Any) -> None:
        super().sendMessage(as_bytes(payload), *arguments, **options)

    def sendMessageFrameData(self, payload: str | bytes, sync: bool = False) -> Any:
        return super().sendMessageFrameData(as_bytes(payload), sync)

    def sendCloseFrame(self, code: int | None = None, reasonUtf8: str | bytes | None = None, isReply: bool = False):
        super().sendCloseFrame(code, as_bytes(reasonUtf8), isReply)


class Factory(fuzzing.FuzzingClientFactory):  # type: ignore[misc]
    """The suite's factory, which runs one case after the other."""

    def __init__(self, url: str, output: Path, cases: list[str]) -> None:
        self._output = output
        self._results: list[dict[str, Any]] = []
        self._errors: list[str] = []
        globalLogPublisher.addObserver(self._log)
        spec = {
            "servers": [{"agent": "ifserver", "url": url}],
            "cases": [case for case in cases if not case.startswith("!")],
            "exclude-cases": [case[1:] for case in cases if case.startswith("!")],
        }
        super().__init__(spec)

    def buildProtocol(self, addr: Any) -> Protocol:
        # As in the suite, but for the protocol's class.
        protocol = Protocol()
        protocol.factory = self
        protocol.caseAgent = self.agent
        protocol.case = self.currentCaseIndex
        protocol.Case = fuzzing.Cases[self.currentCaseIndex - 1]
        protocol.runCase = protocol.Case(protocol)
        return protocol

    def logCase(self, caseResults: dict[str, Any]) -> None:
        self._results.append({name: caseResults[name] for name in KEPT})

    def createReports(self) -> None:
        missing = set(self.specCases) - {result["id"] for result in self._results}
        everything = {"results": self._results, "missing": sorted(missing), "errors": self._errors}
        self._output.write_text(json.dumps(everything, default=repr, indent=1))

    def _log(self, event: dict[str, Any]) -> None:
        if event["log_level"] >= LogLevel.error:
            failure = event.get("log_failure")
            self._errors.append(failure.getTraceback() if failure is not None else formatEvent(event))


def main(url: str, output: str, *cases: str) -> None:
    """Run the cases that fit the patterns `cases`, without those that fit one behind a ``!``."""
    if not cases:
        raise SystemExit("which cases?")
    Factory(url, Path(output), list(cases))
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
