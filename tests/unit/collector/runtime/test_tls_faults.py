"""A server that speaks plain HTTP at an https:// address is told so, not by OpenSSL's constants."""

from __future__ import annotations

import ssl

import httpx
import pytest

from collector.client.failures import no_answer as no_answer_of_a_collector
from marzban_bridge.panels.http.answers import no_answer


def failed(reason):
    cause = ssl.SSLError(1, f"[SSL: {reason}] of the library")
    cause.reason = reason
    error = httpx.ConnectError("it failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("WRONG_VERSION_NUMBER", "it answers without TLS"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "tlsv1 alert protocol version"),
    ],
)
def test_a_fault_of_tls_is_told_in_words(reason, words):
    told = (
        no_answer_of_a_collector(failed(reason)).reason,
        no_answer(failed(reason), url="https://panel.test", url_setting="MARZBAN_URL"),
    )
    for each in told:
        assert words in each
        assert reason not in each
