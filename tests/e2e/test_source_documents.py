"""What the documents say to paste works: curl, shell, JavaScript, nginx, the sources file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from collector.importing.rows import COLUMNS, NEEDED
from collector.reports.reporters import hash_key, signing_secret
from collector.sources.config import read_sources
from tests.support.agent.agent_process import AgentProcess
from tests.support.collector.collector_process import ADMIN_KEY, KEY, CollectorProcess, poll
from tests.support.doc_servers import flaky_proxy, panel, serving
from tests.support.ports import free_port

DOCS = Path(__file__).parents[2] / "docs"


def blocks(document: str, language: str) -> list[str]:
    """Return the code blocks of a document, without the indent of a list."""
    text = (DOCS / document).read_text()
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, flags=re.DOTALL | re.MULTILINE)
    return [re.sub(rf"(?m)^{indent}", "", block) for indent, block in found]


@pytest.fixture
def sources(tmp_path):
    return tmp_path / "sources.toml"


@pytest.fixture
def collector(tmp_path, sources):
    sources.write_text("")
    process = CollectorProcess(tmp_path, {"COLLECTOR_SOURCES_FILE": str(sources)})
    process.start()
    yield process
    process.kill()


def url_of(collector):
    return f"http://127.0.0.1:{collector.port}"


def totals(collector):
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    page = httpx.get(f"{url_of(collector)}/v1/usage/changes", headers=headers).json()
    return {
        each["username"]: (each["upload_bytes"], each["download_bytes"], each["reports"])
        for each in page["changes"]
    }


def run(command, url, **options):
    return subprocess.run(
        command,
        env={
            "PATH": os.environ["PATH"],
            "COLLECTOR_URL": url,
            "REPORTER": "load",
            "REPORTER_KEY": KEY,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **options,
    )


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on the PATH")


@needs_curl
def test_the_curl_of_a_report_is_counted_once_however_often_it_is_pasted(collector):
    (curl,) = [each for each in blocks("report-with-curl.md", "sh") if each.startswith("curl")]
    first, second = (run(["sh", "-c", curl], url_of(collector)).stdout for _ in range(2))
    assert first == '{"accepted":1,"duplicates":0,"ignored":0,"rejected":[]}'
    assert json.loads(second)["duplicates"] == 1
    assert totals(collector) == {"alice": (1048576, 8388608, 1)}


SHELL = "report_traffic alice de-1 443 vless 10 20"


def shell(more):
    (function,) = [each for each in blocks("report-with-curl.md", "sh") if "()" in each]
    return ["sh", "-c", f"{function}\n{more}"]


@needs_curl
def test_the_shell_function_tries_again_with_one_id_until_it_is_counted_once(collector):
    with flaky_proxy(url_of(collector)) as proxy:
        ended = run(shell(SHELL), proxy.url)
    assert ended.returncode == 0, ended.stderr
    assert len(proxy.bodies) == 3
    assert len(set(proxy.bodies)) == 1
    assert totals(collector) == {"alice": (10, 20, 1)}


@needs_curl
def test_the_shell_function_gives_each_report_an_id_of_its_own(collector):
    ended = run(shell(f"{SHELL} && {SHELL}"), url_of(collector))
    assert ended.returncode == 0, ended.stderr
    assert totals(collector) == {"alice": (20, 40, 2)}


@needs_curl
def test_the_shell_function_says_what_was_refused_and_does_not_try_again(collector):
    ended = run(shell("report_traffic alice de-1 443 vless -1 20"), url_of(collector))
    assert ended.returncode == 1
    assert "refused: 422" in ended.stderr
    assert totals(collector) == {}


PAGES = [
    (200, b"<html>Welcome to the hotel</html>"),
    (400, b"<html>The plain HTTP request was sent to HTTPS port</html>"),
    (200, b'{"status":"success"}'),
]


@contextmanager
def pages_before(url):
    """Answer as web servers in between do, then as the collector does."""
    pages = list(PAGES)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if pages:
                status, content = pages.pop(0)
            else:
                headers = {n: self.headers[n] for n in ("authorization", "content-type")}
                answer = httpx.post(f"{url}{self.path}", content=body, headers=headers)
                status, content = answer.status_code, answer.content
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with serving(Handler) as address:
        yield address


@needs_curl
def test_the_shell_function_believes_no_page_of_a_web_server_in_between(collector):
    """It took a 200 of anything for delivered, and gave up at a 400 of anything."""
    hurried = shell(f"sleep() {{ :; }}; {SHELL}")
    with pages_before(url_of(collector)) as url:
        ended = run(hurried, url)
    assert ended.returncode == 0, ended.stderr
    assert totals(collector) == {"alice": (10, 20, 1)}


def test_the_signed_python_is_counted(collector):
    (program,) = [each for each in blocks("report-with-curl.md", "python") if "Webhook" in each]
    command = [sys.executable, "-c", program]
    ended = run(command, url_of(collector))
    assert ended.stdout == "(1, 0)\n", ended.stderr
    assert totals(collector) == {"alice": (1048576, 8388608, 1)}


needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node on the PATH")


def script(more=""):
    function, call, _ = blocks("report-with-curl.md", "js")
    return f"{function}\n{more or call}"


@needs_node
def test_the_javascript_tries_again_with_one_id_until_it_is_counted_once(collector):
    with flaky_proxy(url_of(collector)) as proxy:
        ended = run(["node", "--input-type=module"], proxy.url, input=script())
    assert ended.returncode == 0, ended.stderr
    assert len(proxy.bodies) == 3
    assert len(set(proxy.bodies)) == 1
    assert totals(collector) == {"alice": (1048576, 8388608, 1)}


@needs_node
def test_the_javascript_believes_no_page_of_a_web_server_in_between(collector):
    hurried = script().replace("pauseSeconds * 1000", "1")
    with pages_before(url_of(collector)) as url:
        ended = run(["node", "--input-type=module"], url, input=hurried)
    assert ended.returncode == 0, ended.stderr
    assert totals(collector) == {"alice": (1048576, 8388608, 1)}


@needs_node
def test_the_signed_javascript_is_counted(collector):
    _, _, program = blocks("report-with-curl.md", "js")
    ended = run(["node", "--input-type=module"], url_of(collector), input=program)
    assert ended.stdout.startswith('200 {"accepted":1,'), ended.stderr
    assert totals(collector) == {"alice": (1048576, 8388608, 1)}


@needs_node
def test_the_signature_in_javascript_is_that_of_the_reference_library():
    _, _, program = blocks("report-with-curl.md", "js")
    moment = datetime(2026, 11, 28, 12, tzinfo=UTC)
    function = program[: program.index("const body")]
    call = f"console.log((await signedHeaders('[1]', '{KEY}', 'msg_1', new Date({moment.timestamp() * 1000})))['webhook-signature'])"
    ended = run(["node", "--input-type=module"], "", input=f"{function}\n{call}")
    expected = Webhook(signing_secret(hash_key(KEY))).sign("msg_1", moment, "[1]")
    assert ended.stdout.strip() == expected, ended.stderr


@needs_node
def test_the_javascript_says_what_was_refused_and_does_not_try_again(collector):
    with flaky_proxy(url_of(collector)) as proxy:
        proxy.bodies += [b"", b""]
        more = (
            "await reportTraffic({ user_token: 'alice' }, { url: process.env.COLLECTOR_URL, "
            "key: process.env.REPORTER_KEY });"
        )
        ended = run(["node", "--input-type=module"], proxy.url, input=script(more))
    assert ended.returncode != 0
    assert "refused: 422" in ended.stderr
    assert len(proxy.bodies) == 3


@needs_curl
@pytest.mark.parametrize("document", ["sources/3x-ui.md", "sources/v2board.md"])
def test_the_sources_file_and_the_curl_of_a_panel_s_page_work_together(
    collector, sources, document
):
    (toml,) = blocks(document, "toml")
    read_sources(toml)
    (curl,) = [each for each in blocks(document, "sh") if each.startswith("curl")]
    # A reporter of the test's name in place of the documented one; a 3x-ui needs no entry.
    sources.write_text(toml.replace("uniproxy.shop", "uniproxy.load"))
    curl = curl.replace("http://127.0.0.1:8080", "$COLLECTOR_URL")
    poll(
        "the file is read",
        lambda: '"accepted":1' in run(["sh", "-c", curl], url_of(collector)).stdout,
    )
    assert totals(collector)["alice"][:2] == (1200, 88000)


PUSH = "/api/v1/server/UniProxy/push"
QUERY = "node_type=vless&node_id=7&token=panel-secret"
PUSHED = {"42": [1200, 88000], "44": [1, 1]}
needs_nginx = pytest.mark.skipif(
    shutil.which("nginx") is None,
    reason="no nginx on the PATH (Debian: apt install nginx-light)",
)


@contextmanager
def nginx(folder, lines):
    """Run an nginx with these lines in its server; yield its address."""
    port = free_port()
    logs = folder / "nginx"
    logs.mkdir()
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {logs}/pid; error_log {logs}/error.log info;\n"
        f"events {{}}\nhttp {{ access_log {logs}/access.log; client_body_temp_path {logs}/b;\n"
        f"proxy_temp_path {logs}/p; fastcgi_temp_path {logs}/f; uwsgi_temp_path {logs}/u;\n"
        f"scgi_temp_path {logs}/s;\nserver {{ listen 127.0.0.1:{port};\n{lines}\n}} }}\n"
    )
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        poll("nginx listens", lambda: _answers(f"http://127.0.0.1:{port}/"))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def push_twice(url):
    """Push as a node does that tries again."""
    for _ in range(2):
        answer = httpx.post(f"{url}{PUSH}?{QUERY}", json=PUSHED)
        assert (answer.status_code, answer.json()) == (200, {"data": True})


@needs_nginx
@pytest.mark.parametrize("is_collector_up", [True, False])
def test_the_nginx_lines_hand_the_collector_a_copy_and_the_panel_never_notices(
    collector, sources, tmp_path, is_collector_up
):
    sources.write_text(blocks("sources/v2board.md", "toml")[0].replace("shop", "load"))
    (lines,) = blocks("sources/v2board.md", "nginx")
    lines = lines.replace("http://127.0.0.1:8080", url_of(collector)).replace("THE-KEY", KEY)
    if not is_collector_up:
        collector.kill()
    with panel() as served:
        lines = lines.replace("http://127.0.0.1:7001", served.url)
        with nginx(tmp_path, lines) as url:
            push_twice(url)
            if is_collector_up:
                poll("the copy is counted", lambda: totals(collector))
    assert served.paths == [f"{PUSH}?{QUERY}"] * 2
    assert [json.loads(each) for each in served.bodies] == [PUSHED, PUSHED]
    if is_collector_up:
        assert totals(collector) == {"alice": (1200, 88000, 1)}
    written = "".join(each.read_text() for each in (tmp_path / "nginx").glob("*.log"))
    assert "UniProxy/push" in written
    assert KEY not in written
    assert "panel-secret" not in collector.log.read_text()


@needs_nginx
def test_the_nginx_lines_of_the_relay_keep_the_copy_until_the_collector_is_back(
    collector, sources, tmp_path
):
    sources.write_text(blocks("sources/v2board.md", "toml")[0].replace("shop", "load"))
    (first, _) = blocks("sources/v2board.md", "nginx")[0].split("location = /_traffic")
    (second,) = blocks("sources/relay.md", "nginx")
    port = free_port()
    route = blocks("sources/relay.md", "toml")[1].replace("127.0.0.1:8790", f"127.0.0.1:{port}")
    agent = AgentProcess(tmp_path, url_of(collector), route)
    collector.kill()
    with panel() as served:
        lines = first.replace("http://127.0.0.1:7001", served.url)
        lines += second.replace("127.0.0.1:8790", f"127.0.0.1:{port}")
        try:
            agent.start()
            poll("the relay listens", lambda: _answers(f"http://127.0.0.1:{port}/"))
            with nginx(tmp_path, lines) as url:
                push_twice(url)
            agent.kill()
            agent.start()
            collector.start()
            poll("the copy is counted", lambda: totals(collector))
            assert agent.terminate() == 0
        finally:
            agent.kill()
    assert len(served.bodies) == 2
    assert totals(collector) == {"alice": (1200, 88000, 1)}


def _answers(url):
    try:
        return httpx.get(url).status_code
    except httpx.TransportError:
        return None


def test_the_commands_of_the_page_of_ratios_work_one_after_the_other(collector):
    commands = [
        line.split("#")[0].split()
        for block in blocks("ratios.md", "sh")
        for line in block.splitlines()
    ]
    assert len(commands) == 8
    for program, *words in commands:
        assert program == "traffic-collector"
        ended = collector.run(*words)
        assert ended.returncode == 0, (words, ended.stderr)


def test_the_columns_that_an_import_reads_are_the_documented_ones():
    table = (DOCS / "import.md").read_text().split("## What is read")[1]
    for field, names in COLUMNS.items():
        if field != "connections":
            for name in names:
                assert f"`{name}`" in table
    (example,) = blocks("import.md", "csv")
    assert set(NEEDED) <= set(example.splitlines()[0].split(","))
