"""Go's text/template as far as our alert texts use it, with the functions that Grafana adds.

https://pkg.go.dev/text/template; a key that is missing is `<no value>` where it is printed, and
false where it is tested, as with Grafana's option `missingkey=invalid`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_ACTION = re.compile(
    r"\{\{(- )?((?:\"(?:\\.|[^\"])*\"|`[^`]*`|/\*.*?\*/|[^\"`}]|\}(?!\}))*?)( -)?\}\}", re.DOTALL
)
_TOKEN = re.compile(
    r'"(?:\\.|[^"])*"|`[^`]*`|:=|[()|,=]|-?\d+(?:\.\d+)?|\$?[\w]*(?:\.\w+)+|\$\w*|\.|\w+'
)
NO_VALUE = "<no value>"
Node = tuple[str, Any]


class _Missing:
    """What a key that is not there gives."""

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return NO_VALUE


MISSING = _Missing()


def humanize1024(value: float) -> str:
    """Return a number with a binary prefix, as Prometheus' templates do."""
    if abs(value) <= 1:
        return f"{value:.4g}"
    power = min(int(math.log(abs(value), 1024)), 8)
    return f"{value / 1024**power:.4g}{('', 'ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei', 'Zi', 'Yi')[power]}"


def humanize_duration(value: float) -> str:
    """Return seconds in the largest units, as Prometheus' templates do."""
    sign, seconds = ("-" if value < 0 else ""), abs(value)
    if seconds < 1:
        return f"{sign}{seconds * 1000:.4g}ms"
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{sign}{days}d {hours}h {minutes}m {whole % 60}s"
    if hours:
        return f"{sign}{hours}h {minutes}m {whole % 60}s"
    if minutes:
        return f"{sign}{minutes}m {whole % 60}s"
    return f"{sign}{seconds:.4g}s"


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "len": len,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, *others: a in others,
    "ne": lambda a, b: a != b,
    "and": lambda *all_of: next((each for each in all_of if not each), all_of[-1]),
    "or": lambda *any_of: next((each for each in any_of if each), any_of[-1]),
    "not": lambda a: not a,
    "printf": lambda form, *values: re.sub("%d", "%s", form.replace("%v", "%s")) % values,
    "toUpper": lambda a: str(a).upper(),
    "humanize1024": humanize1024,
    "humanizeDuration": humanize_duration,
    "humanizePercentage": lambda value: f"{value * 100:.4g}%",
    "externalURL": lambda: "http://grafana.example.com/",
}


def _split(text: str) -> list[Node]:
    """Return texts and actions in order, with the spaces gone that `-` takes."""
    found: list[Node] = []
    at, trims = 0, False
    for action in _ACTION.finditer(text):
        piece = text[at : action.start()]
        piece = piece.lstrip() if trims else piece
        found.append(("text", piece.rstrip() if action[1] else piece))
        if not action[2].strip().startswith("/*"):
            found.append(("action", _TOKEN.findall(action[2])))
        at, trims = action.end(), bool(action[3])
    rest = text[at:]
    return [*found, ("text", rest.lstrip() if trims else rest)]


class Templates:
    """Named templates; `render` fills in a text that may use them."""

    def __init__(self, *texts: str) -> None:
        self._defined: dict[str, list[Node]] = {}
        for text in texts:
            self._parse(_split(text), until=())

    def render(self, text: str, data: Any, **variables: Any) -> str:
        """Return the text for this data; AssertionError for what this subset does not know."""
        nodes = self._parse(_split(text), until=())
        return self._run(nodes, data, {"$": data} | {f"${n}": v for n, v in variables.items()})

    def _parse(self, parts: list[Node], *, until: Sequence[str]) -> list[Node]:
        nodes: list[Node] = []
        while parts:
            kind, content = parts.pop(0)
            if kind == "text":
                nodes.append((kind, content))
                continue
            word = content[0]
            if word in until:
                parts.insert(0, (kind, content))
                return nodes
            if word == "define":
                body = self._parse(parts, until=("end",))
                parts.pop(0)
                self._defined[_literal(content[1])] = body
            elif word in {"if", "with", "range"}:
                nodes.append((word, self._block(content[1:], parts)))
            else:
                nodes.append(("action", content))
        assert not until, f"no end of {until}"
        return nodes

    def _block(self, head: list[str], parts: list[Node]) -> Any:
        body = self._parse(parts, until=("end", "else"))
        _, closing = parts.pop(0)
        otherwise: list[Node] = []
        if closing == ["else"]:
            otherwise = self._parse(parts, until=("end",))
            parts.pop(0)
        elif closing[0] == "else":
            otherwise = [(closing[1], self._block(closing[2:], parts))]
        return head, body, otherwise

    def _run(self, nodes: list[Node], dot: Any, variables: dict[str, Any]) -> str:
        written = []
        for kind, content in nodes:
            if kind == "text":
                written.append(content)
            elif kind == "action":
                written.append(self._act(content, dot, variables))
            else:
                written.append(self._run_block(kind, content, dot, variables))
        return "".join(written)

    def _act(self, tokens: list[str], dot: Any, variables: dict[str, Any]) -> str:
        if tokens[0] == "template":
            data = self._value(tokens[2:], dot, variables)
            return self._run(self._defined[_literal(tokens[1])], data, {"$": data})
        if len(tokens) > 1 and tokens[1] in {":=", "="}:
            variables[tokens[0]] = self._value(tokens[2:], dot, variables)
            return ""
        value = self._value(tokens, dot, variables)
        return f"{value:.17g}" if isinstance(value, float) else str(value)

    def _run_block(self, kind: str, content: Any, dot: Any, variables: dict[str, Any]) -> str:
        head, body, otherwise = content
        names: list[str] = []
        if ":=" in head:
            at = head.index(":=")
            names = [each for each in head[:at] if each != ","]
            head = head[at + 1 :]
        value = self._value(head, dot, variables)
        inner = variables  # what a block assigns by `=` is seen outside
        if kind == "range":
            written = []
            for number, each in enumerate(value or ()):
                inner.update(zip(names, (number, each) if len(names) > 1 else (each,), strict=True))
                written.append(self._run(body, each, inner))
            return "".join(written) if value else self._run(otherwise, dot, variables)
        if not value and not (isinstance(value, Mapping) and kind == "with" and value != {}):
            return self._run(otherwise, dot, variables)
        inner.update(dict.fromkeys(names, value))
        return self._run(body, value if kind == "with" else dot, inner)

    def _value(self, tokens: list[str], dot: Any, variables: dict[str, Any]) -> Any:
        rest = list(tokens)
        value = self._command(rest, dot, variables, piped=())
        while rest:
            assert rest.pop(0) == "|", tokens
            value = self._command(rest, dot, variables, piped=(value,))
        return value

    def _command(
        self, rest: list[str], dot: Any, variables: dict[str, Any], *, piped: tuple[Any, ...]
    ) -> Any:
        first = rest[0]
        if re.fullmatch(r"[a-zA-Z]\w*", first) and first not in {"true", "false"}:
            rest.pop(0)
            given = []
            while rest and rest[0] not in {"|", ")"}:
                given.append(self._operand(rest, dot, variables))
            return FUNCTIONS[first](*given, *piped)
        assert not piped, "only a function takes what is piped"
        return self._operand(rest, dot, variables)

    def _operand(self, rest: list[str], dot: Any, variables: dict[str, Any]) -> Any:
        token = rest.pop(0)
        if token == "(":
            end, depth = 0, 1
            while depth:
                depth += {"(": 1, ")": -1}.get(rest[end], 0)
                end += 1
            inner, rest[:] = rest[: end - 1], rest[end:]
            return self._value(inner, dot, variables)
        if token[0] in '"`':
            return _literal(token)
        if re.fullmatch(r"-?\d+", token):
            return int(token)
        if re.fullmatch(r"[a-zA-Z]\w*", token):
            return (
                {"true": True, "false": False}.get(token)
                if token in {"true", "false"}
                else (FUNCTIONS[token]())
            )
        name, *fields = token.split(".")
        value = variables[name] if name else dot
        for each in fields:
            if each:
                value = value.get(each, MISSING) if isinstance(value, Mapping) else MISSING
        return value


def _literal(token: str) -> str:
    if token[0] == "`":
        return token[1:-1]
    return token[1:-1].encode().decode("unicode_escape") if "\\" in token else token[1:-1]
