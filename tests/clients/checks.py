"""What the Python scripts of the real-client tests share: the command line, the report and its time budget."""

import argparse
import itertools
import random
import sys
import time
import uuid

# A script ends within this many seconds, whatever the broker does: every wait is cut to what is left.
BUDGET_S = 36.0
# How long one awaited event may take. Generous: a slow machine is no failure.
WAIT_S = 8.0

VERSIONS = ("3.1", "3.1.1", "5.0")


class Failed(Exception):
    """A check that does not hold; the message says what was expected and what came."""


class Checks:
    """Runs checks, prints one line for each, and knows the broker's address and the time that is left."""

    def __init__(self, description):
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=1883)
        parser.add_argument("--unix", metavar="PATH", help="a Unix socket instead of host and port")
        parser.add_argument("--websocket", metavar="PATH", help="by WebSocket, at this path")
        parser.add_argument("--cafile", help="by TLS, and who signed the broker's certificate")
        parser.add_argument("--short", action="store_true", help="connect, publish and subscribe, no more")
        arguments = parser.parse_args()
        self.host, self.port, self.unix = arguments.host, arguments.port, arguments.unix
        self.websocket, self.cafile, self.short = arguments.websocket, arguments.cafile, arguments.short
        self.run_id = uuid.uuid4().hex[:8]
        self.failures = 0
        self._ends = time.monotonic() + BUDGET_S
        self._serial = itertools.count()

    def run(self, name, check, *arguments):
        """Prints `ok name`, or `FAIL name: why` when the check raises."""
        try:
            check(*arguments)
        except Exception as error:  # any surprise of a client library is a failed check, not the end of the script
            self.failures += 1
            kind = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
            reason = " ".join(str(error).split())
            print(f"FAIL {name}: {kind}{reason}", flush=True)
        else:
            print(f"ok {name}", flush=True)

    def exit(self):
        """Ends the script: status 1 if any check failed."""
        sys.exit(1 if self.failures else 0)

    def left(self, most=WAIT_S):
        """Seconds that a wait may take, at least a little so that what is already there is seen."""
        return max(0.05, min(most, self._ends - time.monotonic()))

    def topic(self, name):
        """A Topic Name that no other check and no other run uses."""
        return f"check/{self.run_id}/{next(self._serial)}/{name}"

    def client_id(self, name=""):
        """A unique Client Identifier of at most 23 characters, the limit of MQTT 3.1."""
        return f"{self.run_id}-{next(self._serial)}-{name}"[:23]


def expect(what, got, wanted):
    """Raises `Failed` unless the two are equal."""
    if got != wanted:
        raise Failed(f"{what}: expected {shorten(wanted)}, got {shorten(got)}")


def shorten(value, most=300):
    """A printable form that keeps a report readable when a payload is large."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def large_payload():
    """1 MiB in which every shift, cut or repetition shows. The same bytes on every run."""
    return random.Random(1).randbytes(1024 * 1024)
