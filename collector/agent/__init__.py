"""`traffic-agent`: reads what a VPN server has counted and reports it, each byte once.

Reading order is the flow of the data: `config` (one TOML file), `sources` (one pure module per
kind of server), `fetch` (asking them), `deltas` (counters → traffic since the last look), `users`
(whose), `state` (baselines, in the spool's file), `polling` (one pass, one transaction), `sending`,
`relay` (for senders that never retry), `cli`.
"""
