"""`marzban-bridge demo`: the whole product against a simulated panel, in under a minute.

Reading order: `cast` (the users), `stage` (traffic, and the demo's own sums), `stories` (what
happens to each user), `verdict` (compares all sums), `view` (what is shown), `run`.
"""
