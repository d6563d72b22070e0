"""Composes the apps into one product: settings, URLs, the ASGI application, background jobs, the console."""

from config.celery import app as celery_app

# The one place that says it: the package's metadata, the settings, the API and its description take it from here.
__version__ = "0.1.0"

__all__ = ["celery_app"]
