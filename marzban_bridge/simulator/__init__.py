"""A stand-in for a panel, for demonstrations and tests: Marzban 0.8.4 or PasarGuard 5.2.1.

It keeps its users in memory and repeats the panel's rules, answers, webhooks and known faults, as
far as the bridge and the collector meet them. Reading order: `panel/dialect` (what differs between
the two, as values), `panel/users`, `panel/rules` (what happens to one user), `panel/payloads` and
`http/*_answers` (the JSON that comes and goes), `panel/panel` (the state machine), `http/app` (its
HTTP interface), `run` (a process).
"""
