"""`marzban-bridge demo`: the whole product against a simulated panel, in under a minute.

Reading order: `cast` (who the users are), `stage` (traffic, and the demo's own books), `stories`
(what happens to each user), `verdict` (do the books balance), `view` (what one sees), `run`.
"""
