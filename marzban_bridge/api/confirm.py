"""Confirm pages, to which links lead: GET shows a form, POST signs in and carries the action out.

Every POST carries the name and password of a Marzban admin. There are no cookies, so another site
cannot send a request with a user's authority (CSRF). Without a password the pages show only what
their URL contains.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse

from marzban_bridge.api import pages
from marzban_bridge.api.access.auth import FORM_TYPE, MAX_FORM_BYTES, Caller
from marzban_bridge.api.audit import audited
from marzban_bridge.api.bodies import read_body
from marzban_bridge.api.context import BridgePart, bridges_of, sign_in_through, user_of
from marzban_bridge.api.errors import headers_of, status_of
from marzban_bridge.api.pages import Question
from marzban_bridge.bridge import Bridge
from marzban_bridge.errors import BridgeError, ObservingError, PanelError
from marzban_bridge.reconcile.action_names import CLEANUP_PHRASE, RESET_ALL_PHRASE, Action
from marzban_bridge.sizes import human_bytes

# Not in the OpenAPI document: these pages are for people.
router = APIRouter(prefix="/confirm", include_in_schema=False)

MAX_FIELDS = 10
Facts = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Who signed in, and whether the panel may be changed in observe mode."""

    caller: Caller
    changes_panel: bool


Act = Callable[[Confirmed], Awaitable[Facts]]

RESET_ALL = Question(
    title="Reset all users",
    consequence="All users of the admin who signs in start a new period at 0 bytes, external "
    "traffic included; for the panel's own admin these are all users. Marzban restarts xray on "
    "every node. Quotas stay.",
    phrase=RESET_ALL_PHRASE,
)


def _question_of_reset(request: Request, username: str) -> Question:
    return Question(
        title="Reset usage",
        name=username,
        back_url=_dashboard(request, "traffic-user", user=username),
        consequence="The user starts a new period at 0 bytes, panel and external. The quota stays.",
    )


def _question_of_reset_all(request: Request) -> Question:
    return replace(RESET_ALL, back_url=_dashboard(request, "traffic-overview"))


def _question_of_cleanup(request: Request, days: int) -> Question:
    return Question(
        title=f"Clean up after {days} days",
        back_url=_dashboard(request, "traffic-overview"),
        consequence=f"The collector deletes its reports and daily rows older than {days} days. "
        "Totals and quotas stay.",
        phrase=CLEANUP_PHRASE,
    )


@router.get("/users/{username:path}/reset")
async def ask_reset(username: str, request: Request) -> HTMLResponse:
    """Show the form to reset a user; the name is taken from the URL and not checked yet."""
    return _html(pages.ask(_question_of_reset(request, username)))


@router.post("/users/{username:path}/reset")
async def reset_user(username: str, request: Request) -> HTMLResponse:
    """Reset a user, if the admin owns the user or is sudo."""
    bridge, name = user_of(request, username)

    async def act(asked: Confirmed) -> Facts:
        caller = asked.caller
        user = await bridge.panel.get_user_as(name, bearer=caller.bearer)
        after = await bridge.actions.reset_user(
            user.username, actor=caller.admin.username, changes_panel=asked.changes_panel
        )
        balance = after.balance
        return (
            ("Status", after.user.status.value),
            ("Quota", human_bytes(balance.quota_bytes)),
            ("Used in the panel", human_bytes(balance.panel_bytes)),
            ("Used elsewhere", human_bytes(balance.external_bytes)),
        )

    question = _question_of_reset(request, username)
    return await _carry_out(Action.RESET, question, request, bridge, act, username=name)


@router.get("/reset-all")
async def ask_reset_all(request: Request) -> HTMLResponse:
    """Show the form to reset all users."""
    return _html(pages.ask(_question_of_reset_all(request)))


@router.post("/reset-all")
async def reset_all(request: Request, bridge: BridgePart) -> HTMLResponse:
    """Reset all users of a sudo admin."""

    async def act(asked: Confirmed) -> Facts:
        caller = asked.caller
        users = await bridge.actions.reset_all(
            bearer=caller.bearer, caller=caller.admin, changes_panel=asked.changes_panel
        )
        return [("Users with external traffic", str(users))]

    question = _question_of_reset_all(request)
    return await _carry_out(Action.RESET_ALL, question, request, bridge, act)


@router.get("/cleanup")
async def ask_cleanup(request: Request, days: str = "") -> HTMLResponse:
    """Show the form to delete old rows."""
    count = _days(days)
    if count is None:
        return _refuse_days(request)
    return _html(pages.ask(_question_of_cleanup(request, count)))


@router.post("/cleanup")
async def cleanup(request: Request, bridge: BridgePart, days: str = "") -> HTMLResponse:
    """Have the collector delete old rows, for a sudo admin."""
    count = _days(days)
    if count is None:
        return _refuse_days(request)

    async def act(asked: Confirmed) -> Facts:
        caller = asked.caller
        answer = await bridge.actions.cleanup(days=count, actor=caller.admin.username)
        return [(name.replace("_", " "), str(value)) for name, value in answer.items()]

    question = _question_of_cleanup(request, count)
    return await _carry_out(Action.CLEANUP, question, request, bridge, act)


def _days(raw: str) -> int | None:
    if not (raw.isascii() and raw.isdecimal() and len(raw) <= 5):
        return None
    return int(raw) if 1 <= int(raw) <= 36500 else None


def _refuse_days(request: Request) -> HTMLResponse:
    page = pages.refuse(
        "Clean up",
        "?days= must be a number from 1 to 36500",
        back_url=_dashboard(request, "traffic-overview"),
    )
    return _html(page, 422)


def _dashboard(request: Request, uid: str, *, user: str = "") -> str:
    """Return the address of a dashboard, for one user if named; empty where none is configured."""
    root_url = bridges_of(request).settings.dashboards_url
    if not root_url:
        return ""
    choice = f"?{urlencode({'var-user': user})}" if user else ""
    return f"{root_url}/d/{uid}{choice}"


async def _carry_out(
    action: Action,
    question: Question,
    request: Request,
    bridge: Bridge,
    act: Act,
    *,
    username: str = "",
) -> HTMLResponse:
    """Carry out the action; return the page with its result, or the form with the reason."""
    try:
        asked = await _confirmed(question, request, bridge)
        if question.phrase:
            asked.caller.require_sudo()
    except HTTPException as refusal:
        bridge.metrics.actions.labels(action.value, "denied").inc()
        page = pages.ask(question, problem=str(refusal.detail))
        return _html(page, refusal.status_code, refusal.headers)
    except BridgeError as error:
        bridge.metrics.actions.labels(action.value, "failed").inc()
        return _ask_again(question, error)
    try:
        with audited(
            bridge,
            bridges_of(request).clock,
            action,
            actor=asked.caller.admin.username,
            username=username,
        ):
            facts = await act(asked)
    except ObservingError as error:
        return _ask_again(replace(question, wants_change=True), error)
    except BridgeError as error:
        return _ask_again(question, error)
    return _html(pages.tell(question, facts))


async def _confirmed(question: Question, request: Request, bridge: Bridge) -> Confirmed:
    """Check the typed phrase, then sign in; a wrong phrase uses no sign-in attempt up."""
    body = await read_body(request, max_bytes=MAX_FORM_BYTES, what="a form")
    try:
        text = body.decode("utf-8", "replace")
        form = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError as error:
        raise HTTPException(400, "the form cannot be read") from error
    if question.phrase and form.get("confirm", "").strip() != question.phrase:
        raise HTTPException(422, f"Nothing was done: type {question.phrase!r} to confirm.")
    credentials = {name: form.get(name, "") for name in ("username", "password")}
    answer = await sign_in_through(
        bridge, request, urlencode(credentials).encode(), content_type=FORM_TYPE
    )
    if answer.status in {401, 403, 422}:
        raise HTTPException(403, "The panel does not know an admin of this name and password.")
    if not answer.is_success:
        raise PanelError(f"the panel answers {answer.status} to a sign-in")
    if answer.token is None:
        raise PanelError("the panel's answer to a sign-in has no token: is it a Marzban panel?")
    caller = Caller(admin=await bridge.panel.whoami(bearer=answer.token), bearer=answer.token)
    return Confirmed(caller, changes_panel=form.get("change_panel") == "true")


def _ask_again(question: Question, error: BridgeError) -> HTMLResponse:
    return _html(pages.ask(question, problem=str(error)), status_of(error), headers_of(error))


def _html(page: str, status: int = 200, headers: Mapping[str, str] | None = None) -> HTMLResponse:
    return HTMLResponse(page, status, headers={**pages.HEADERS, **(headers or {})})
