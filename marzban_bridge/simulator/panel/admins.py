"""The simulated panel's admins: who there is, and who has signed in."""

from __future__ import annotations

from marzban_bridge.simulator.http.tokens import admin_token, read_admin_token
from marzban_bridge.simulator.panel.dialect import Kind
from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.records import PanelRecords
from marzban_bridge.simulator.panel.roles import ADMINISTRATOR, OPERATOR, OWNER
from marzban_bridge.simulator.panel.users import SimulatedAdmin


class PanelAdmins(PanelRecords):
    """A panel's records and its admins; `acting` is the admin by whom a request is made."""

    @property
    def kind(self) -> Kind:
        """What the panel is."""
        return self.dialect.kind

    def add_admin(self, username: str, *, password: str, is_sudo: bool = False) -> SimulatedAdmin:
        """Add an admin; the first may have no row in the panel's database."""
        self.revision += 1
        is_first = not self.admins
        full_role = OWNER if is_first else ADMINISTRATOR
        admin = SimulatedAdmin(
            username=username,
            password=password,
            is_sudo=is_sudo,
            is_in_database=not is_first or self.dialect.first_admin_is_in_database,
            id=1 + max((each.id for each in self.admins.values()), default=0),
            role=full_role if is_sudo else OPERATOR,
        )
        self.admins[username] = admin
        return admin

    def sign_in(self, username: str, password: str) -> str:
        """Return a bearer token; RefusedError 401 for a wrong name or password, 403 if disabled."""
        admin = self.admins.get(username)
        if admin is None or admin.password != password:
            raise RefusedError(401, "Incorrect username or password")
        if admin.status == "disabled":
            raise RefusedError(403, "your account has been disabled")
        return admin_token(
            username,
            is_sudo=admin.is_sudo,
            now=self.clock(),
            life_minutes=self.token_minutes,
            secret=self.secret,
        )

    def admin_of(self, token: str) -> SimulatedAdmin:
        """Return whose bearer token it is; RefusedError 401 for one that is not valid any more."""
        username = read_admin_token(token, now=self.clock(), secret=self.secret)
        if username is None or username not in self.admins:
            raise RefusedError(401, "Could not validate credentials")
        return self.admins[username]

    def find_admin(self, username: str) -> SimulatedAdmin:
        """Return an admin of the panel's database; RefusedError 404 for anybody else."""
        admin = self.admins.get(username)
        if admin is None or not admin.is_in_database:
            raise RefusedError(404, "Admin not found")
        return admin

    def acting(self, by: str | None) -> SimulatedAdmin:
        """Return the admin of that name, or the first."""
        return self.environment_admin if by is None else self.admins[by]
