from decimal import Decimal

from django.db import migrations

SMALLER = [{"from": ["mistral-large-latest", "mistral-medium-latest"], "to": "mistral-small-latest"}]
PLANS = [
    {"name": "Standard", "limit_nanos": 50 * 10**9, "lookup_keys": ["standard"], "is_default": True},
    {"name": "Premium", "limit_nanos": 200 * 10**9, "lookup_keys": ["premium"], "is_default": False},
]


def seed(apps, schema_editor):
    plans = apps.get_model("billing", "Plan")
    for plan in PLANS:
        caps = {"soft_cap": Decimal("0.8"), "hard_cap": Decimal("1"), "downgrade_rules": SMALLER}
        plans.objects.get_or_create(name=plan["name"], defaults=plan | caps)


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial")]
    operations = [migrations.RunPython(seed, migrations.RunPython.noop, elidable=False)]
