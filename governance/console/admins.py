"""The console's models of this app: which page each has. The console's site imports this."""

from django.contrib import admin

from governance.console import alert_pages, entry_admins, ledger_admins, limit_admins
from governance.models import Alert, Allowance, EmergencyStop, LedgerCheck, RateLimit, SpendEntry

# Registered there by decorators: tenants, agents, keys, budgets and their history.
__all__ = ["ledger_admins"]

admin.site.register(Alert, alert_pages.AlertAdmin)
admin.site.register(Allowance, limit_admins.AllowanceAdmin)
admin.site.register(EmergencyStop, limit_admins.EmergencyStopAdmin)
admin.site.register(LedgerCheck, limit_admins.LedgerCheckAdmin)
admin.site.register(RateLimit, limit_admins.RateLimitAdmin)
admin.site.register(SpendEntry, entry_admins.SpendEntryAdmin)
