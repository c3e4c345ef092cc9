"""A stand-in for a Marzban 0.8.4 panel, for demonstrations and tests.

It keeps its users in memory and repeats the panel's rules, answers, webhooks and known faults, as
far as the bridge and the collector meet them. Reading order: `users`, `rules` (what happens to one
user), `payloads` and `answers` (the JSON that comes and goes), `panel` (the state machine), `app`
(its HTTP interface), `run` (a process).
"""
