"""Who may spend what, and the record of it. Knows no provider and no Stripe."""
