"""Which page of the console each model of this app has; the console's site loads this list."""

from django.contrib import admin

from llm.console import catalogue_admins, provider_admins
from llm.models import Model, ModelAlias, Price, ProviderEndpoint

ADMINS = {
    Model: catalogue_admins.ModelAdmin,
    ModelAlias: catalogue_admins.ModelAliasAdmin,
    Price: catalogue_admins.PriceAdmin,
    ProviderEndpoint: provider_admins.ProviderEndpointAdmin,
}
for model, admin_class in ADMINS.items():
    admin.site.register(model, admin_class)
