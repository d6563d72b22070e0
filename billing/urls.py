"""Paths below /api/."""

from django.urls import path

from billing.views import stripe_webhook

urlpatterns = [
    path("webhooks/stripe", stripe_webhook, name="stripe-webhook"),
    path("webhooks/stripe/", stripe_webhook),
]
