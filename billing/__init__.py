"""Who pays: Stripe's plans, periods and webhooks. The only app that imports stripe."""
