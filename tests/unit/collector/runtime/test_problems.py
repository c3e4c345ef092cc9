"""Errors in one form (RFC 9457), and the page of the API, which needs nothing from elsewhere."""

from __future__ import annotations

import json
import re

import pytest

from collector.api.problems import Problem
from collector.api.reports import Answer
from collector.app import create_app as create_collector
from collector.field_descriptions import ANSWER_EXAMPLE, PROBLEM_EXAMPLE, REPORT_EXAMPLE
from collector.field_descriptions import DESCRIPTIONS as COLLECTOR_FIELDS
from collector.reports.decode import decode
from collector.runtime.http.api_page import api_page
from collector.runtime.http.field_descriptions import is_described, named_parts
from collector.runtime.http.problem import nothing_at, problem_answer
from collector.runtime.http.problem_fields import MEDIA_TYPE, details_of
from collector.settings import Settings as CollectorSettings
from marzban_bridge.app import create_app as create_bridge
from marzban_bridge.config.settings import Settings as BridgeSettings
from marzban_bridge.field_descriptions import DESCRIPTIONS as BRIDGE_FIELDS

BRIDGE = {
    "MARZBAN_URL": "http://panel.test",
    "MARZBAN_USERNAME": "a",
    "MARZBAN_PASSWORD": "b",
    "COLLECTOR_ADMIN_KEY": "an-admin-key-of-the-collector",
}
OF_THE_PANEL = {("/api/admin/token", status) for status in ("401", "422")}
"""Answers that the bridge passes on as they are."""


@pytest.fixture(scope="module")
def documents():
    return {
        "collector": create_collector(CollectorSettings.from_env({})).openapi(),
        "bridge": create_bridge(BridgeSettings.from_env(BRIDGE)).openapi(),
    }


def test_a_problem_has_what_the_rfc_asks_for():
    answer = problem_answer(401, "no key", {"www-authenticate": "Bearer"})
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.headers["www-authenticate"] == "Bearer"
    assert details_of(401) == {"type": "about:blank", "title": "Unauthorized", "status": 401}
    assert details_of(499)["title"] == "Error"


@pytest.mark.parametrize("program", ["collector", "bridge"])
def test_every_error_is_documented_as_a_problem(documents, program):
    document = documents[program]
    answers = [
        (path, status, answer)
        for path, methods in document["paths"].items()
        for operation in methods.values()
        for status, answer in operation["responses"].items()
        if int(status) >= 400 and path != "/readyz"
        if (path, status) not in OF_THE_PANEL
    ]
    assert answers
    wrong = [
        (path, status)
        for path, status, answer in answers
        if set(answer.get("content", {})) not in ({MEDIA_TYPE}, {"text/html"})
    ]
    assert wrong == []


@pytest.mark.parametrize("program", ["collector", "bridge"])
def test_the_page_shows_every_route_and_loads_nothing(documents, program):
    document = documents[program]
    page = api_page(document)
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in page
    for name in document["components"]["schemas"]:
        assert f"id='{name}'" in page
    assert "<script" not in page
    assert re.findall(r"(?:src|href)=['\"]?(?:https?:)?//", page) == []


def test_a_path_without_a_route_says_where_to_look():
    for path in ("/dashboard", "/dashboard/", "/x/dashboard"):
        assert "Grafana" in nothing_at(path)
    assert "/docs" in nothing_at("/v1/sources/3xui/rk_key")
    assert "rk_key" not in nothing_at("/v1/sources/3xui/rk_key")


def test_what_a_document_says_is_no_markup():
    operation = {"summary": "<b>", "description": "<script>", "responses": {"200": {}}}
    document = {
        "info": {"title": "<i>", "version": "1"},
        "paths": {"/<x>": {"get": operation}},
        "components": {"schemas": {"<s>": {"type": "string", "examples": ["<e>"]}}},
    }
    page = api_page(document)
    for each in ("<b>", "<script>", "<i>", "/<x>", "<s>", "<e>"):
        assert each not in page


@pytest.mark.parametrize(
    ("program", "descriptions"), [("collector", COLLECTOR_FIELDS), ("bridge", BRIDGE_FIELDS)]
)
def test_every_field_and_parameter_is_described(documents, program, descriptions):
    parts = list(named_parts(documents[program]))
    assert {name for name, owner in parts if not is_described(owner)} == set()
    assert descriptions.keys() <= {name for name, _ in parts}, "described, and nowhere any more"


def test_the_ways_to_report_are_told_with_examples(documents):
    document = documents["collector"]
    operation = document["paths"]["/v1/reports"]["post"]
    assert operation["security"] == [{"reporterKey": []}, {"signature": []}, {}]
    assert (
        "Standard Webhooks" in document["components"]["securitySchemes"]["signature"]["description"]
    )
    decoded = decode(json.dumps(REPORT_EXAMPLE).encode(), is_strict=True)
    assert not decoded.refusals
    assert Answer.model_validate(ANSWER_EXAMPLE).accepted == 1
    assert Problem.model_validate(PROBLEM_EXAMPLE).status == 422
    for kind in ("3x-ui", "uniproxy"):
        body = document["paths"][f"/v1/sources/{kind}"]["post"]["requestBody"]
        assert body["content"]["application/json"]["example"]
