# every chore of the project; `just` lists them

_default:
    @just --list

# install the locked dependencies and the git hooks
setup:
    uv sync --group dev
    uv run --group dev pre-commit install

# format and mend what can be mended
fmt:
    uv run --group dev ruff format .
    uv run --group dev ruff check --fix .

# style and types, as CI sees them
lint:
    uv run --group dev ruff format --check .
    uv run --group dev ruff check .
    uv run --group dev mypy
    uv run --group dev lint-imports

# all tests; pass arguments on: just test -k resets
test *args:
    uv run --group dev pytest -n 4 --dist loadfile {{args}}

# the tests of decisions only, without a process or a server, in seconds
quick:
    uv run --group dev pytest -n 2 tests/unit

# the property tests with twenty times as many examples as in a run of all tests; hours
fuzz examples="20":
    TEST_EXAMPLES={{examples}} uv run --group dev pytest --timeout 14400 tests/property

# known vulnerabilities of the locked dependencies; needs an advisory service on the net
audit:
    uv export --frozen --group bench --no-emit-project --quiet | uvx pip-audit@2.10.1 --strict --disable-pip --require-hashes -r /dev/stdin

# the versions of uv.lock, for scripts/install.sh
constraints:
    (echo '# The versions that uv.lock has, for scripts/install.sh; `just constraints` writes it anew'; \
      uv export --frozen --no-emit-project --no-hashes --no-annotate --no-header --all-extras --quiet) > packaging/pip/constraints.txt

# what CI does
ci:
    .ci/run

# the whole product against a simulated panel, in a minute
demo:
    uv run marzban-bridge demo

# reports a second, beside a bare ledger, a server that stores nothing, and a naive one
bench-intake *args:
    uv run --group bench python benchmarks/intake.py {{args}}

# are reports taken as fast with 10 million in the ledger; bytes, memory, questions, purging
bench-growth *args:
    uv run --group bench python benchmarks/growth.py {{args}}

# how long each query of the dashboards takes with 10,000 users and a month of data
bench-dashboards *args:
    uv run --group bench python benchmarks/dashboards.py {{args}}

# an hour's reports while InfluxDB is away: does anybody notice, how fast after
bench-outage *args:
    uv run --group bench python benchmarks/outage.py {{args}}

# what 100,000 panel users cost the panel and the bridge, beside a poller of the whole list
bench-bridge *args:
    uv run --group bench python benchmarks/bridge.py {{args}}

# 1, 2 and 4 collectors on one PostgreSQL, an embedded ledger beside: what a report costs each
bench-scale *args:
    uv run --group bench python benchmarks/scale.py {{args}}

# accidents to four collectors on one PostgreSQL, for ten minutes: do the books balance
soak-cluster seconds="600":
    CLUSTER_CHAOS_SECONDS={{seconds}} uv run --group dev pytest --timeout 1200 --log-cli-level=INFO -k books_balance tests/e2e/test_shared_ledger.py

# half an hour of accidents of every kind: do the books balance, is every limit right after
soak *args:
    uv run --group bench python benchmarks/soak.py {{args}}

# five minutes of accidents to three panels: is each user treated as docs/several-panels.md says
three-panels *args:
    uv run --group bench python benchmarks/three_panels.py {{args}}

# the whole stack with a simulated panel and made-up traffic; Grafana on :3000, admin/admin
stack-demo:
    docker compose --env-file demo.env --profile demo up --build

# collector and bridge in one process against the panel of your .env
up:
    uv run marzban-bridge up
