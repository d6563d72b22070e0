from django.contrib.admin.apps import AdminConfig


class ConsoleConfig(AdminConfig):
    """The operators' console takes the place of Django's default admin site."""

    default_site = "config.console.ConsoleSite"
