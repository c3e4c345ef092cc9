"""The project's programs as processes: each a fork of one process that has imported them already.

What `python -m MODULE` runs costs a second of a core to import, and the tests start hundreds. A
fork runs the same module with its own arguments, environment, folder and standard streams; it can
be killed, and ends as any process does. Where it matters how an interpreter begins (memory, the
command line itself, a preloaded library) a program is `fresh`: executed anew. Outside a test run
(the benchmarks) all are.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MODULES = (
    "collector.agent.cli",
    "collector.cli.main",
    "marzban_bridge.cli.main",
    "marzban_bridge.simulator.run",
    "psycopg",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
)
APPLICATIONS = {
    "collector.app": "collector.settings",
    "marzban_bridge.app": "marzban_bridge.config.settings",
}
MESSAGE_BYTES = 2**18
_PR_SET_PDEATHSIG = 1


class Program:
    """A process that was forked; the part of `subprocess.Popen` that tests use."""

    def __init__(self, nursery: Nursery, pid: int, args: list[str]) -> None:
        self.pid = pid
        self.args = args
        self.returncode: int | None = None
        self._nursery = nursery
        self._ended = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return how it ended; None while it runs."""
        return self.returncode if self.returncode is not None else self._reap(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and return how; subprocess.TimeoutExpired where it has not."""
        if self.returncode is None and self._reap(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def _reap(self, seconds: float | None) -> int | None:
        waiting = select.poll()
        waiting.register(self._ended, select.POLLIN)
        if waiting.poll(None if seconds is None else seconds * 1000):
            self.returncode = self._nursery.ask({"reap": self.pid})
            os.close(self._ended)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that is forked. Its forks end with it, and it ends with the tests.

    What it imports keeps some of the environment (a console its width), so that must not be what
    the first test that starts a program has set for itself.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**env, "PYTHONPATH": str(ROOT)},
                cwd=ROOT,
            )
        self._guard = threading.Lock()

    def ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Any:
        """Send a request, with open files, and return its answer."""
        with self._guard:
            socket.send_fds(self._line, [json.dumps(request).encode()], descriptors)
            answer = self._line.recv(MESSAGE_BYTES)
        assert answer, "the process that is forked has ended"
        return json.loads(answer)

    def start(
        self, words: list[str], *, env: Mapping[str, str], cwd: str, descriptors: Sequence[int]
    ) -> Program:
        """Run a module with its arguments."""
        request = {"words": words, "env": dict(env), "cwd": cwd}
        return Program(self, self.ask(request, descriptors), words)

    def close(self) -> None:
        """End it, and all that was forked."""
        self._line.close()
        self._process.wait()


_nursery: Nursery | None = None
_environment: dict[str, str] | None = None
_started: list[Program | subprocess.Popen[bytes]] = []


def have_forks() -> None:
    """Fork programs from now on, of a process with the environment as it is now.

    It is not started before the first of them.
    """
    global _environment  # noqa: PLW0603
    _environment = dict(os.environ)


def end_forks() -> None:
    """End what is forked."""
    global _nursery  # noqa: PLW0603
    if _nursery is not None:
        _nursery.close()
        _nursery = None


def running() -> list[Program | subprocess.Popen[bytes]]:
    """Return the programs that were started here and have not ended."""
    _started[:] = [each for each in _started if each.poll() is None]
    return _started[:]


def start(
    *words: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: Any = subprocess.DEVNULL,
    stderr: Any = subprocess.DEVNULL,
    fresh: bool = False,
) -> Program | subprocess.Popen[bytes]:
    """Start what `python -m` runs with these words: a module and its arguments."""
    global _nursery  # noqa: PLW0603
    given = [str(word) for word in words]
    env = os.environ if env is None else env
    if fresh or _environment is None or any(name.startswith("LD_") for name in env):
        process = subprocess.Popen(
            [sys.executable, "-m", *given],
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
        _started.append(process)
        return process
    if _nursery is None:
        _nursery = Nursery(_environment)
    with Path(os.devnull).open("r+b") as nothing:
        descriptors = [
            (nothing if stream is subprocess.DEVNULL else stream).fileno()
            for stream in (nothing, stdout, stderr)
        ]
        fork = _nursery.start(given, env=env, cwd=str(cwd or Path.cwd()), descriptors=descriptors)
    _started.append(fork)
    return fork


def run(
    *words: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run what `python -m` runs to its end, and return what it said."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start(*words, env=env, cwd=cwd, stdout=out, stderr=err)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
            process.wait()
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess([*map(str, words)], code, *said)


def _serve(line: socket.socket) -> None:
    """Fork when asked; return in a fork, once it is what it was asked to be, and at the end."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(line, MESSAGE_BYTES, 3)
        if not message:
            sys.exit()
        request = json.loads(message)
        if pid := request.get("reap"):
            answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        else:
            parent = os.getpid()
            answer = os.fork()
            if answer == 0:
                line.close()
                _become(request, descriptors, parent)
                return
            for each in descriptors:
                os.close(each)
        with contextlib.suppress(BrokenPipeError):
            line.send(json.dumps(answer).encode())


def _become(request: dict[str, Any], descriptors: list[int], parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    for number, each in enumerate(descriptors):
        os.dup2(each, number)
        os.close(each)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    sys.argv = list(request["words"])


def _build_routes() -> None:
    """Build what FastAPI builds of an application's routes at its first request, for all forks."""
    for application, settings in APPLICATIONS.items():
        create_app = importlib.import_module(application).create_app
        create_app(importlib.import_module(settings).Settings()).openapi()


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the tests, not before
    sys.path.remove(str(Path(__file__).parent))  # as where `python -m` is run
    for each in MODULES:
        importlib.import_module(each)
    _build_routes()
    gc.collect()
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
