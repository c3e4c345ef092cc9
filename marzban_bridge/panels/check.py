"""What a panel says of itself and of the bridge's admin there, and what is wrong with that."""

from __future__ import annotations

from dataclasses import dataclass

from marzban_bridge.panels.dialect import Dialect, PanelKind


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelCheck:
    """What a panel says of itself and of the admin the bridge is there; as a text for the log."""

    admin: str
    is_sudo: bool
    """Whether the admin may see and change the users of all admins."""
    version: str | None
    """None where it does not say it as panels of its kind do."""
    dialect: Dialect
    """How such a panel behaves."""
    missing_permissions: tuple[str, ...] = ()

    @property
    def kind(self) -> PanelKind:
        """Which kind of panel it is."""
        return self.dialect.kind

    @property
    def panel(self) -> str:
        """The panel's kind and version."""
        return f"{self.dialect.title} {self.version or 'of an unknown version'}"

    def __str__(self) -> str:
        return f"signed in as {self.admin}; it is {self.panel}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What keeps the bridge from seeing or changing what it should, and what to do."""
        return tuple(each for each in (self.permission_warning, self.version_warning) if each)

    @property
    def permission_warning(self) -> str:
        """Which users the bridge can neither see nor limit, and what to do; empty for none."""
        if self.missing_permissions:
            return (
                f"the role of {self.admin}, or its API key, lacks "
                f"{', '.join(self.missing_permissions)}: the bridge needs those of users for all "
                "users (scope 2), the others to be allowed: docs/pasarguard.md"
            )
        if not self.is_sudo:
            return (
                f"{self.admin} is no sudo admin, so that users of other admins can be neither seen "
                "nor limited: make it one in the panel, or give the bridge another"
            )
        return ""

    @property
    def version_warning(self) -> str:
        """Why the panel may not behave as the bridge relies on, and what to do; empty if it may."""
        tried = self.dialect.tried_version
        alike = f"{tried.rpartition('.')[0]}."  # patch versions behave alike
        if self.version is None and "system.read" not in self.missing_permissions:
            return (
                f"it does not say its version as {self.dialect.title} {tried} does: "
                f"is it a {self.dialect.title}?"
            )
        if self.version is not None and not self.version.lstrip("v").startswith(alike):
            return (
                f"it is {self.dialect.title} {self.version}; what the bridge relies on was tried "
                f"with {tried}: watch it with BRIDGE_ENFORCEMENT=observe first"
            )
        return ""
