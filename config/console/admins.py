"""Users, roles and sign-ins in the console, in its own look. They are the owners'."""

from __future__ import annotations

from typing import Any

from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django_otp.plugins.otp_static.models import StaticDevice
from django_otp.plugins.otp_totp.models import TOTPDevice

from config.console import sign_in_admins, user_admins

ADMINS: dict[type[Any], type[admin.ModelAdmin[Any]]] = {
    User: user_admins.UserAdmin,
    Group: user_admins.RoleAdmin,
    AccessLog: sign_in_admins.SignInAdmin,
    AccessFailureLog: sign_in_admins.FailedSignInAdmin,
    AccessAttempt: sign_in_admins.LockOutAdmin,
}
# What shows a second factor's secret lets whoever sees it in.
SECRET = (TOTPDevice, StaticDevice)

for secret in SECRET:
    admin.site.unregister(secret)
for model, admin_class in ADMINS.items():
    # Django's own app has registered the first two in Django's look.
    if admin.site.is_registered(model):
        admin.site.unregister(model)
    admin.site.register(model, admin_class)
