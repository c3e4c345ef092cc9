"""A real gRPC server that answers as the statistics service of Xray and sing-box does."""

from __future__ import annotations

from concurrent import futures
from typing import Any

import grpc

from collector.agent.sources.protobuf import fields, text_field


class StatsService:
    """Serves counters of ours on loopback under the given service's name."""

    def __init__(self, service: str) -> None:
        self.uptimes = [50]
        self.counters: dict[str, int] = {}
        self.asked: list[dict[int, Any]] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(handler)
            for name, handler in (("QueryStats", self._query), ("GetSysStats", self._sys))
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, handlers),)
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def use(self, user: str, up: int, down: int) -> None:
        """Let a user use something."""
        for direction, amount in (("uplink", up), ("downlink", down)):
            name = f"user>>>{user}>>>traffic>>>{direction}"
            self.counters[name] = self.counters.get(name, 0) + amount

    def _query(self, request: bytes, _: object) -> bytes:
        self.asked.append(dict(fields(request)))
        answer = b""
        for name, count in self.counters.items():
            stat = text_field(1, name) + b"\x10" + _varint(count)
            answer += b"\x0a" + bytes([len(stat)]) + stat
        return answer

    def _sys(self, _: bytes, __: object) -> bytes:
        uptime = self.uptimes.pop(0) if len(self.uptimes) > 1 else self.uptimes[0]
        return b"\x08\x05\x50" + bytes([uptime])

    def close(self) -> None:
        """Stop answering."""
        self._server.stop(None).wait()


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
