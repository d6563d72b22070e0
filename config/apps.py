from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class ConsoleConfig(AdminConfig):
    """The operators' console takes the place of Django's default admin site."""

    default_site = "config.console.ConsoleSite"


class CompositionConfig(AppConfig):
    """What needs all the apps at once: the demo, and the console's pages of users."""

    name = "config"
    verbose_name = "Composition"
