"""One colour for each state of billing's, wherever it is shown; its word stands beside it."""

# Of a customer: what its subscriptions come to.
STATE_TONES = {
    "active": "active",
    "trial": "info",
    "provisional": "warned",
    "free": "info",
    "frozen": "stopped",
    "lapsed": "warned",
    "suspended": "stopped",
    "closed": "off",
    "pending": "off",
    "none": "off",
}
# Of an event of the inbox.
EVENT_TONES = {"done": "active", "waiting": "info", "failing": "warned", "put aside": "stopped", "not ours": "off"}
