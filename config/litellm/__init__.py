"""What comes over from a LiteLLM proxy: its teams, users, keys, budgets and names of models.

`database` and `files` read `rows`, `export` is what they have read, with `without_place` for what has no place here,
`mapping` says what it is here and what cannot be taken over, with `routes`, `limits` and `aliases` (all pure), `steps`
plans it and does it. LiteLLM keeps the SHA-256 of a key, as we do, so agents go on with the key that they have.
"""
