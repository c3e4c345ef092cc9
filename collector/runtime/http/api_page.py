"""Shows an OpenAPI document as one HTML page, without scripts and without other files.

The usual pages load a program from a content delivery network, which a server behind a firewall, or
in a country that blocks it, does not reach.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from collector.runtime.http.field_descriptions import describe_fields
from collector.runtime.http.problem import say_problems

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;
color:#222;background:#fff}
h2{margin-top:2.5rem;border-bottom:1px solid #ccc}
summary{cursor:pointer;padding:.3rem 0}
details{border-bottom:1px solid #eee}
code,pre{font:14px/1.4 ui-monospace,monospace;background:#f4f4f4;border-radius:4px}
code{padding:.1rem .3rem}pre{padding:.6rem;overflow:auto}
table{border-collapse:collapse;margin:.5rem 0}
td,th{border:1px solid #ddd;padding:.2rem .6rem;text-align:left;vertical-align:top}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}
code,pre{background:#2a2a2a}td,th{border-color:#444}}
"""
_LIMITS = ("minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems", "pattern")
_REF = "#/components/schemas/"


API_OPTIONS: dict[str, Any] = {
    "docs_url": None,
    "redoc_url": None,
    "redirect_slashes": False,  # a redirect would say http:// behind a proxy with TLS
}
"""What an application of FastAPI is made with, for `serve_api_page`."""


def serve_api_page(app: FastAPI, descriptions: Mapping[str, str]) -> None:
    """Serve the page at `/docs`; the application has been made with `API_OPTIONS`.

    Its OpenAPI document then says that errors are problem details, and describes fields by name.
    """
    describe = app.openapi

    def described() -> dict[str, Any]:
        is_new = app.openapi_schema is None
        document = describe()
        if is_new:
            say_problems(document)
            describe_fields(document, descriptions)
        return document

    async def page() -> HTMLResponse:
        return HTMLResponse(api_page(app.openapi()))

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    app.add_api_route("/docs", page, include_in_schema=False)


def api_page(document: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI document: every route, parameter, body, answer and schema."""
    info = document["info"]
    title = f"{info['title']} {info['version']}"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>",
        f"<p>{escape(info.get('summary', ''))}. <a href=openapi.json>openapi.json</a></p>",
        *_security(document),
    ]
    for tag, operations in _by_tag(document).items():
        parts.append(f"<h2>{escape(tag)}</h2>")
        parts += [_operation(*each) for each in operations]
    parts.append("<h2>Schemas</h2>")
    for name, schema in sorted(document.get("components", {}).get("schemas", {}).items()):
        parts.append(f"<h3 id='{escape(name)}'>{escape(name)}</h3>{_schema(schema)}")
    return "\n".join(parts) + "</html>\n"


def _by_tag(document: Mapping[str, Any]) -> dict[str, list[tuple[str, str, Mapping[str, Any]]]]:
    found: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for tag in operation.get("tags", ["other"])[:1]:
                found.setdefault(tag, []).append((method, path, operation))
    return found


def _security(document: Mapping[str, Any]) -> Iterator[str]:
    schemes = document.get("components", {}).get("securitySchemes", {})
    if schemes:
        rows = (
            (f"<code>{escape(name)}</code>", escape(scheme.get("description", scheme["type"])))
            for name, scheme in schemes.items()
        )
        yield "<h2>Who may call</h2>" + _table(("scheme", ""), rows)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    head = f"<code>{method.upper()} {escape(path)}</code> {escape(operation.get('summary', ''))}"
    parts = [f"<details><summary>{head}</summary>"]
    if text := operation.get("description"):
        parts.append(f"<p>{escape(text)}</p>")
    if needed := [name for each in operation.get("security", []) for name in each]:
        parts.append(
            f"<p>Needs: {', '.join(f'<code>{escape(each)}</code>' for each in needed)}</p>"
        )
    if parameters := operation.get("parameters"):
        parts.append(_table(("parameter", "in", "type", ""), map(_parameter, parameters)))
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body, <code>{escape(media_type)}</code>: {_type(content['schema'])}</p>")
        parts += [_example(each) for each in _examples(content)]
    answers = operation.get("responses", {}).items()
    parts.append(_table(("status", "answer", ""), (_answer(*each) for each in answers)))
    return "".join(parts) + "</details>"


def _parameter(each: Mapping[str, Any]) -> tuple[str, ...]:
    needed = "required. " if each.get("required") else ""
    schema = each.get("schema", {})
    text = f"{needed}{each.get('description', '')} {_limits(schema)}"
    return f"<code>{escape(each['name'])}</code>", escape(each["in"]), _type(schema), escape(text)


def _answer(status: str, answer: Mapping[str, Any]) -> tuple[str, ...]:
    kinds = (
        f"{_type(content.get('schema', {}))} <code>{escape(media_type)}</code>"
        for media_type, content in answer.get("content", {}).items()
    )
    return escape(status), "<br>".join(kinds), escape(answer.get("description", ""))


def _schema(schema: Mapping[str, Any]) -> str:
    parts = [f"<p>{escape(schema.get('description', ''))}</p>"]
    required = schema.get("required", ())
    rows = (
        (
            f"<code>{escape(name)}</code>",
            _type(each),
            "required" if name in required else _default(each),
            escape(f"{each.get('description', '')} {_limits(each)}"),
        )
        for name, each in schema.get("properties", {}).items()
    )
    if schema.get("properties"):
        parts.append(_table(("field", "type", "", ""), rows))
    else:
        parts.append(f"<p>{_type(schema)}</p>")
    return "".join(parts) + "".join(_example(each) for each in _examples(schema))


def _type(schema: Mapping[str, Any]) -> str:
    if ref := schema.get("$ref"):
        name = escape(ref.removeprefix(_REF))
        return f"<a href='#{name}'>{name}</a>"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(_type(each) for each in schema[several])
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(each))}</code>" for each in schema["enum"])
    kind = schema.get("type", "any")
    return escape(f"{kind} ({schema['format']})" if "format" in schema else str(kind))


def _default(schema: Mapping[str, Any]) -> str:
    return f"default {escape(json.dumps(schema['default']))}" if "default" in schema else "optional"


def _limits(schema: Mapping[str, Any]) -> str:
    """Return the bounds of a value, in the words of JSON Schema."""
    options = [schema, *schema.get("anyOf", ())]
    found = {name: each[name] for each in options for name in _LIMITS if name in each}
    return "; ".join(f"{name} {value}" for name, value in found.items())


def _examples(owner: Mapping[str, Any]) -> list[Any]:
    if "example" in owner:
        return [owner["example"]]
    examples = owner.get("examples", [])
    return examples if isinstance(examples, list) else [each["value"] for each in examples.values()]


def _example(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"


def _table(heads: tuple[str, ...], rows: Any) -> str:
    head = "".join(f"<th>{each}</th>" for each in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
