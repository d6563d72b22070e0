"""Years of calls in a database, and how quick its pages and its ledger are with them."""
