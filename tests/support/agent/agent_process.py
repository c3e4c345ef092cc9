"""A real agent process, which may be killed and started again on its state."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support import programs
from tests.support.collector.collector_process import DEADLINE_SECONDS, KEY
from tests.support.programs import Program


class AgentProcess:
    """An agent of one configuration file."""

    def __init__(self, folder: Path, collector_url: str, sources: str, *, agent: str = "") -> None:
        self.config = folder / "agent.toml"
        self.state = folder / "agent" / "state.sqlite3"
        self.log = folder / "agent.log"
        self.config.write_text(
            f'[collector]\nurl = "{collector_url}"\nkey = "{KEY}"\n'
            f'[agent]\nserver = "de-1"\nstate = "{self.state}"\ninterval_seconds = 0.1\n{agent}\n'
            f"{sources}\n"
        )
        self.config.chmod(0o600)
        self._environment = os.environ | {
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "COLUMNS": "200",
        }
        self._process: Program | subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> list[str]:
        """Return the words of a command."""
        return ["collector.agent", "--config", str(self.config), *arguments]

    def start(self, *, fresh: bool = False) -> None:
        """Start it without waiting for it."""
        with self.log.open("ab") as log:
            self._process = programs.start(
                *self.command("run"), env=self._environment, stderr=log, stdout=log, fresh=fresh
            )

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def is_running(self) -> bool:
        """Tell whether it runs; AssertionError with its log when it has ended by itself."""
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        return True

    def terminate(self) -> int:
        """Ask it to end and return how it did."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(DEADLINE_SECONDS)
        self._process = None
        return code

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the agent's to its end."""
        return programs.run(*self.command(*arguments), env=self._environment)
