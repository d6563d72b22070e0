"""Composes the apps into one product: settings, URLs, the ASGI application, background jobs, the console."""

from config.celery import app as celery_app

__all__ = ["celery_app"]
