"""`traffic-agent`: reads a VPN server's traffic counters and reports the traffic, each byte once.

Reading order follows the data: `config` (one TOML file), `sources` (one pure module per kind of
server), `fetch` (requests to them), `state` (baselines, and the traffic since the last poll, in the
spool's file), `polling` (one poll, one transaction), `stream` (sources that are streams), `relay`
(for senders that never retry), `agent` (one task per source and per lane of the spool), `cli`.
"""
