"""The door: whatever a user holds becomes one carrier, `Counts`, with every check made once.

Start at `poplin.data.counts.as_counts`. `tables.py` says what kind of object came in and which names it
brought, `checks.py` holds the checks, `formula.py` turns a formula and a table into covariates,
`readers.py` opens files. Rooms to the right of this one take `Counts` and trust it.
"""
