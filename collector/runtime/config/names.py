"""Which names of environment variables belong to a product, and the refusal of those that do not.

A misspelt name would be a setting that silently does not hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from collector.runtime.config import ConfigError
from collector.runtime.near_words import near_words

SERVICE_LINK = re.compile(
    r"[A-Z0-9_]+_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT_[0-9]+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)"
)
"""Names by which Kubernetes and Docker's links tell each container where the others are."""
SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")
"""What they set `<SERVICE>_PORT` to; a service that is called `collector` has COLLECTOR_PORT so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names that programs with one `.env` have together."""

    known: frozenset[str]
    own_prefixes: tuple[str, ...]
    """What begins so is ours, or a mistake."""
    shared_prefixes: tuple[str, ...]
    """What begins so may be another program's, too: a mistake where it resembles one of ours."""
    foreign: re.Pattern[str]
    """Names with such a prefix that are known to be another program's."""
    may_be_in_file: frozenset[str] = frozenset()
    """Those of the known names whose value may be in a file, which `<NAME>_FILE` names."""

    def refuse_unknown(self, given: Iterable[str], *, where: str, is_ours: bool) -> None:
        """Raise ConfigError that lists the unknown names, and which ones were probably meant.

        `is_ours`: no other program reads the place, so any name with a shared prefix is refused.
        """
        unknown = sorted(name for name in given if self._is_unknown(name, is_ours=is_ours))
        if unknown:
            listed = ", ".join(f"{name}{_remark(self._meant(name))}" for name in unknown)
            raise ConfigError(
                f"{where}: not known: {listed}; correct it or take it out, all names are in "
                ".env.example"
            )

    def _is_unknown(self, name: str, *, is_ours: bool) -> bool:
        folded = name.upper()
        if name in self.known or name.removesuffix("_FILE") in self.may_be_in_file:
            return False
        if SERVICE_LINK.fullmatch(name) or self.foreign.fullmatch(name):
            return False
        if folded.startswith(self.own_prefixes) or (
            is_ours and folded.startswith(self.shared_prefixes)
        ):
            return True
        return folded.startswith(self.shared_prefixes) and self._meant(name) is not None

    def _meant(self, name: str) -> str | None:
        """Return what an unknown name is most likely meant to be.

        Names are compared by what follows the prefix: all that begin with it are similar.
        """
        folded = name.upper()
        for prefix in (*self.own_prefixes, *self.shared_prefixes):
            if folded.startswith(prefix):
                rest = folded.removeprefix(prefix)
                rests = sorted(
                    each.removeprefix(prefix) for each in self.known if each.startswith(prefix)
                )
                near = near_words(rest, rests) or [
                    each for each in rests if rest.startswith(each) or each.startswith(rest)
                ]
                return prefix + near[0] if near else None
        return None


def _remark(meant: str | None) -> str:
    return "" if meant is None else f" (did you mean {meant}?)"


def without_service_addresses(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the addresses that container tooling puts where ports are."""
    return {
        name: value
        for name, value in environment.items()
        if not (name.endswith("_PORT") and SERVICE_ADDRESS.fullmatch(value))
    }
