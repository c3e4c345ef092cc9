"""What all tests share: the engines they run on, and an environment without ours."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

from tests.support import programs
from tests.support.bridge.shared_stores import ENGINES, FILE, StorePlace
from tests.support.compile_once import compile_share
from tests.support.engines import existing_server, influx_engine, postgres_server
from tests.support.engines.existing_server import ExistingServer
from tests.support.engines.influx_engine import InfluxEngine
from tests.support.engines.postgres_server import PostgresServer
from tests.support.examples import FACTOR

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 4 * 2**30
SPREAD = 0.9
"""Over how much of the other files those are spread whose tests wait."""
NONE_HERE = "none here, its tests are skipped"
# A run of all tests says of one tree the same each time. What is new is looked for by the runs with
# more examples, every night: a failure that the dice find takes minutes to shrink. On a busy machine
# an example takes as long as it takes.
settings.register_profile("repeatable", derandomize=FACTOR == 1, deadline=None)
settings.load_profile("repeatable")
if FACTOR == 1:
    # Hypothesis also draws constants of the modules that are imported so far: these change with each
    # commit, and from worker to worker.
    assert len(providers._local_constants) == 0
    providers._get_local_constants = lambda: providers._local_constants


def pytest_configure(config: pytest.Config) -> None:
    """Have consoles made before a test sets their width, and without that of a worker's terminal.

    A console that finds a width when it is made keeps it. Hundreds of processes are started: what
    they import is compiled once, whatever the caller prefers.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    for module in ("collector.cli.main", "marzban_bridge.cli.commands"):
        importlib.import_module(module)
    if config.args == config.getini("testpaths"):  # all tests
        compile_share(Path(__file__).parent.rglob("test_*.py"), config)
    _keep_files_in_memory()
    programs.have_forks()


def _keep_files_in_memory() -> None:
    """Have temporary folders where `fsync` costs nothing, if there is room; not if told a place."""
    is_roomy = MEMORY.is_mount() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES
    if is_roomy and not {"TMPDIR", "PYTEST_DEBUG_TEMPROOT"} & os.environ.keys():
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collect without looking for garbage among the thousands of tests, then or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    programs.end_forks()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files whose tests wait for processes among those that compute, the longest first.

    One after the other, as they are collected, all workers would wait together. What is short
    stays at the end, where a worker has nothing else to do.
    """
    tests = Path(__file__).parent
    files = list(dict.fromkeys(item.path for item in items))
    short = [each for each in files if each.is_relative_to(tests / "unit")]
    waiting = [each for each in files if each.is_relative_to(tests / "e2e")]
    waiting.sort(key=lambda each: each.name != "test_soak.py")
    computing = [each for each in files if each not in {*short, *waiting}]
    places = {each: place / len(computing) for place, each in enumerate(computing, start=1)}
    places |= {each: SPREAD * place / len(waiting) for place, each in enumerate(waiting)}
    items.sort(key=lambda item: places.get(item.path, 2.0))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    """A set-up that misses a deadline leaves no program behind that would slow all that follows."""
    before = programs.running()
    try:
        yield
    except BaseException:
        for each in programs.running():
            if each not in before:
                each.kill()
                each.wait()
        raise


def pytest_report_header() -> list[str]:
    return [
        f"InfluxDB: {influx_engine.describe() or NONE_HERE}",
        f"PostgreSQL: {existing_server.describe() or postgres_server.describe() or NONE_HERE}",
    ]


@pytest.fixture(autouse=True)
def _no_log_handlers_stay() -> Iterator[None]:
    """A command run by a test binds the root logger to that test's standard error."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture(scope="session")
def influx_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxEngine]:
    """One InfluxDB for the session."""
    if influx_engine.describe() is None:
        pytest.skip("neither a Docker engine nor an influxd on the PATH")
    engine = InfluxEngine(tmp_path_factory.mktemp("influxd"))
    yield engine
    engine.close()


@pytest.fixture
def influx(influx_server: InfluxEngine) -> InfluxEngine:
    """An InfluxDB that runs and whose buckets are empty."""
    influx_server.start()
    influx_server.reset()
    return influx_server


@pytest.fixture(scope="session")
def postgres_for_all() -> Iterator[PostgresServer]:
    """One PostgreSQL for the session, fast and not durable; or the one that the caller names."""
    server = _postgres_server()
    yield server
    server.close()


def _postgres_server() -> PostgresServer:
    if url := existing_server.named():
        return ExistingServer(
            url,
            prepare=os.environ.get(existing_server.PREPARE, ""),
            nodes=os.environ.get(existing_server.NODES, ""),
        )
    if postgres_server.describe() is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    server = PostgresServer()
    server.start()
    return server


@pytest.fixture
def postgres(postgres_for_all: PostgresServer) -> Iterator[PostgresServer]:
    """That PostgreSQL; the databases that a test takes of it come back when the test is over."""
    yield postgres_for_all
    postgres_for_all.take_back()


@pytest.fixture(params=ENGINES)
def store_place(request: pytest.FixtureRequest, tmp_path: Path) -> StorePlace:
    """Where a bridge's store may be: in a file, or in a database of its own."""
    if request.param == FILE:
        return StorePlace(tmp_path / "bridge.sqlite3")
    server: PostgresServer = request.getfixturevalue("postgres")
    return StorePlace(server.url(server.new_database()))
