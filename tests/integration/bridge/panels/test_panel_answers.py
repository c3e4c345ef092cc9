"""What is said of an answer that is no panel's, and of none at all; against real sockets too."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess

import httpx
import pytest

from marzban_bridge.errors import (
    NotThePanelError,
    PanelError,
    PanelLoginError,
    PanelUnavailableError,
)
from marzban_bridge.panels.dialect import PanelKind
from marzban_bridge.panels.http.answers import other_than_panel
from marzban_bridge.panels.rest_panel import RestPanel
from tests.support.fixed_answers import Server, serving

PASSWORD = "hunter2"
HTML = {"content-type": "text/html; charset=UTF-8"}
CLOUDFLARE = b"<!DOCTYPE html><html><head><title>Just a moment...</title></head></html>"
JSON = {"content-type": "application/json"}


async def complaint(url: str, *, name: str = "default", transport=None) -> PanelError:
    """Return what the first look at whatever is there says."""
    panel = RestPanel(
        url,
        kind=PanelKind.MARZBAN,
        username="root",
        password=PASSWORD,
        name=name,
        timeout_seconds=2,
        transport=transport,
    )
    try:
        with pytest.raises(PanelError) as caught:
            await panel.whoami()
    finally:
        await panel.close()
    assert PASSWORD not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("status", "headers", "body", "words"),
    [
        (403, HTML, b"<html>Forbidden</html>", "this is no wrong password"),
        (401, HTML, b"<html>Unauthorized</html>", "this is no wrong password"),
        (403, HTML | {"cf-mitigated": "challenge"}, CLOUDFLARE, "let the bridge's address pass"),
        (200, HTML, CLOUDFLARE, "a page of a proxy or firewall"),
        (200, HTML, b"<html>Welcome to nginx!</html>", "a web page, not Marzban's API"),
        (404, HTML, b"<html>404</html>", "must be the panel's own address"),
        (200, {}, b"<!doctype html><p>hi", "a web page, not Marzban's API"),
        (500, HTML, b"<html>500</html>", "a web page, not Marzban's API"),
        (
            400,
            HTML,
            b"<html>400 The plain HTTP request was sent to HTTPS port</html>",
            "must begin with https://",
        ),
        (
            301,
            {"location": "https://panel.example.com/api/admin/token?key=secret"},
            b"",
            "a redirect to https://panel.example.com/api/admin/token: set MARZBAN_URL",
        ),
        (
            401,
            {"www-authenticate": 'Basic realm="x"', **JSON},
            b"{}",
            "wants a password of its own",
        ),
    ],
)
async def test_what_is_no_panel_is_said_to_be_none_with_what_to_do(status, headers, body, words):
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers=headers, content=body)

    error = await complaint("http://panel", transport=httpx.MockTransport(answer))
    assert isinstance(error, NotThePanelError)
    assert words in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (401, JSON | {"www-authenticate": "Bearer"}, b'{"detail": "<html>"}'),
        (404, JSON, b"{}"),
        (200, JSON, b"{}"),
        (500, {"content-type": "text/plain"}, b"Internal Server Error"),
        (502, {"content-type": "text/plain"}, b"bad gateway"),
    ],
)
def test_what_may_be_marzbans_is_not_called_anything_else(status, headers, body):
    assert other_than_panel(status, headers, body, url_setting="MARZBAN_URL") is None


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_web_server_whose_panel_is_down_is_an_outage_and_no_wrong_address(status):
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers=HTML, content=b"<html>502 Bad Gateway</html>")

    error = await complaint("http://panel", transport=httpx.MockTransport(answer))
    assert type(error) is PanelUnavailableError


async def test_a_wrong_password_is_marzbans_own_401():
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(401, json={"detail": "Incorrect username or password"})

    error = await complaint("http://panel", transport=httpx.MockTransport(answer))
    assert isinstance(error, PanelLoginError)
    assert "MARZBAN_PASSWORD" in str(error)


async def test_another_panels_settings_are_named():
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(401, json={"detail": "Incorrect username or password"})

    transport = httpx.MockTransport(answer)
    assert "in the panels file" in str(await complaint("http://p", name="two", transport=transport))
    assert "[two] url" in str(await complaint("http://127.0.0.1:1", name="two"))


async def test_a_port_where_nothing_listens_is_said_to_be_one():
    error = await complaint("http://127.0.0.1:1")
    assert "nothing listens there (connection refused)" in str(error)


async def test_a_host_that_does_not_exist_is_said_to_be_one():
    error = await complaint("http://no-such-host.invalid")
    assert "cannot be resolved" in str(error)
    assert "see to the host in MARZBAN_URL" in str(error)


async def test_a_server_that_does_not_answer_is_given_up(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = await complaint(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "ReadTimeout" in str(error)


@contextlib.contextmanager
def encrypted(folder):
    """A server with a certificate of its own."""
    path, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=panel"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    server = Server(200, headers=list(JSON.items()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # a client that hangs up
    with serving(server):
        yield server


async def test_a_certificate_that_is_not_trusted_is_said_to_be_one(tmp_path):
    with encrypted(tmp_path) as server:
        error = await complaint(server.url.replace("http:", "https:"))
    assert "its certificate is not accepted" in str(error)
    assert "SSL_CERT_FILE" in str(error)


async def test_a_plain_port_asked_for_tls_is_said_to_be_one():
    with serving(Server(200)) as server:
        server.handle_error = lambda *_: None
        error = await complaint(server.url.replace("http:", "https:"))
    assert "does not speak TLS" in str(error)


async def test_a_tls_port_asked_without_is_said_to_be_one(tmp_path):
    with encrypted(tmp_path) as server:
        error = await complaint(server.url)
    assert "must begin with https://" in str(error)
