from typing import TYPE_CHECKING

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig
from django.contrib.auth.signals import user_logged_in
from django.db.models.signals import post_migrate
from django.utils.module_loading import autodiscover_modules

if TYPE_CHECKING:
    from governance.ports import TriedCall


class ConsoleConfig(AdminConfig):
    """The operators' console takes the place of Django's default admin site."""

    default_site = "config.console.site.ConsoleSite"

    def ready(self) -> None:
        super().ready()
        # Each app's `console/admins.py` registers its models.
        autodiscover_modules("console.admins")


def _try_call(*, key_id: int, tenant_id: int, text: str, model: str) -> "TriedCall":
    # The gateway is loaded where it is called, and not by every command.
    from llm.gateway import trial_call

    return trial_call.send(key_id=key_id, tenant_id=tenant_id, text=text, model=model)


class CompositionConfig(AppConfig):
    """What needs all the apps at once: the demo, the console's pages of users, and what one app lends another."""

    name = "config"
    verbose_name = "Composition"

    def ready(self) -> None:
        from django.apps import apps
        from django.core.checks import Tags, register

        from billing.accounts import sync, topups
        from billing.console import customer_part
        from billing.rules import alert_kinds as of_billing
        from config import checks, metric_files, roles, sessions
        from governance import ports
        from governance.rules import alert_kinds
        from llm.catalogue import snapshot, tools
        from llm.providers import cost_reports
        from llm.rules import alert_kinds as of_llm

        ports.wire(
            ports.Ports(
                models=snapshot.names,
                quote=snapshot.quote,
                price=snapshot.cost_of,
                rates=snapshot.rates_of_rule,
                tool_price=tools.price_of,
                set_tool_price=tools.set_price,
                upgrade_link=topups.link,
                provider_costs=cost_reports.read,
                stand_in=sync.standing_in,
                try_call=_try_call,
                plans=customer_part.plans,
                bill=customer_part.bill,
                billed_events=customer_part.events,
                alert_kinds={**of_billing.KINDS, **of_llm.KINDS, **alert_kinds.OWN},
            )
        )
        metric_files.install()
        register(checks.trust, Tags.security, deploy=True)
        # The log of sign-ins is a model, which is there once all apps are.
        from config import sign_ins

        user_logged_in.connect(sessions.begin, dispatch_uid="config.sessions")
        user_logged_in.connect(sign_ins.tell_of_new_place, dispatch_uid="config.sign_ins")
        # Once, after the last app: this one has no tables, so Django sends it nothing.
        post_migrate.connect(roles.put_right, sender=apps.get_app_config("billing"), dispatch_uid="config.roles")
