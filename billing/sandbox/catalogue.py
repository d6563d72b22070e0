"""Products, prices of every sort, coupons, and the features that products bring."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from billing.sandbox import amounts, forms, times
from billing.sandbox.state import State
from billing.sandbox.wire import Row, refused

CHANGEABLE = ("active", "nickname", "metadata", "lookup_key", "tax_behavior")


def add_product(state: State, form: Any) -> Row:
    if form.id and state.find("product", form.id):
        raise refused("Product already exists.", param="id", code="resource_already_exists")
    now = state.now
    row = state.add(
        "product",
        {
            **({"id": form.id} if form.id else {}),
            "active": form.active,
            "created": now,
            "default_price": None,
            "description": form.description or None,
            "images": [],
            "marketing_features": [],
            "metadata": dict(form.metadata or {}),
            "name": form.name,
            "package_dimensions": None,
            "shippable": None,
            "statement_descriptor": None,
            "tax_code": None,
            "unit_label": form.unit_label or None,
            "updated": now,
            "url": None,
        },
    )
    state.emit("product.created", row)
    return row


def change_product(state: State, row: Row, form: Any) -> Row:
    if form.default_price:
        state.get("price", form.default_price, "default_price")
    return changed(state, row, form, ("name", "active", "description", "unit_label", "default_price"), "product")


def changed(state: State, row: Row, form: Any, names: tuple[str, ...], kind: str) -> Row:
    """Take over the fields that were given; metadata is merged, and an empty value takes its key away."""
    given, before = form.model_fields_set, {}
    for name in names:
        if name in given:
            value = getattr(form, name)
            value = None if value == "" else value
            if row[name] != value:
                before[name], row[name] = row[name], value
    if "metadata" in given and (merged := merge(row["metadata"], form.metadata)) != row["metadata"]:
        before["metadata"], row["metadata"] = row["metadata"], merged
    if "updated" in row:
        row["updated"] = state.now
    if before:
        state.emit(f"{kind}.updated", row, before)
    return row


def merge(metadata: Row, given: Any) -> Row:
    """Metadata with what was given: an empty text takes a key away, an empty value for the whole takes all."""
    merged = {} if given in ("", None) else {**metadata, **given}
    return {name: value for name, value in merged.items() if value != ""}


def delete_product(state: State, row: Row) -> Row:
    if any(state.rows("price", product=row["id"])):
        raise refused("This product cannot be deleted because it has one or more user-created prices.", param="id")
    del state.tables["product"][row["id"]]
    state.emit("product.deleted", row)
    return {"id": row["id"], "object": "product", "deleted": True}


def add_price(state: State, form: Any) -> Row:
    if bool(form.product) == (form.product_data is not None):
        raise refused("You must specify either `product` or `product_data`.", param="product", code="parameter_missing")
    recurring = form.recurring.model_dump() if form.recurring else None
    if recurring is not None:
        _check_recurring(state, recurring)
    scheme = _scheme(form, recurring)
    product = state.get("product", form.product, "product")["id"] if form.product else ""
    if form.lookup_key:
        _claim_lookup_key(state, form.lookup_key, transfer=form.transfer_lookup_key)
    if form.product_data is not None:
        # The last, so that a price that is refused leaves no product behind.
        product = add_product(state, form.product_data)["id"]
    row = state.add(
        "price",
        {
            "active": form.active,
            "created": state.now,
            "currency": form.currency,
            "lookup_key": form.lookup_key or None,
            "metadata": dict(form.metadata or {}),
            "nickname": form.nickname or None,
            "product": product,
            "recurring": recurring,
            "tax_behavior": form.tax_behavior,
            "type": "recurring" if recurring else "one_time",
            **scheme,
        },
    )
    state.emit("price.created", row)
    return row


def _check_recurring(state: State, recurring: Row) -> None:
    if recurring["interval_count"] > times.MOST[recurring["interval"]]:
        raise refused("You cannot set an interval of more than three years.", param="recurring[interval_count]")
    metered = recurring["usage_type"] == "metered"
    if metered != bool(recurring["meter"]):
        raise refused(
            "Metered prices must be backed by meters, and only metered prices may be.", param="recurring[meter]"
        )
    if metered:
        state.get("billing.meter", recurring["meter"], "recurring[meter]")


def _scheme(form: Any, recurring: Row | None) -> Row:
    """How the price is reckoned: exactly one of an amount, tiers, or an amount of the payer's choice."""
    said = [form.unit_amount is not None, form.unit_amount_decimal is not None, bool(form.tiers)]
    if sum([*said, form.custom_unit_amount is not None]) != 1:
        raise refused(
            "You must specify exactly one of: unit_amount, unit_amount_decimal, tiers, custom_unit_amount.",
            param="unit_amount",
        )
    if bool(form.tiers) != (form.billing_scheme == "tiered") or bool(form.tiers) != bool(form.tiers_mode):
        raise refused("Tiers need `billing_scheme=tiered` and a `tiers_mode`.", param="tiers")
    if form.transform_quantity and form.tiers:
        raise refused("`transform_quantity` cannot be used with tiers.", param="transform_quantity")
    if form.custom_unit_amount and recurring:
        raise refused("`custom_unit_amount` is for one-time prices alone.", param="custom_unit_amount")
    tiers = _tiers(form.tiers) if form.tiers else None
    custom = form.custom_unit_amount.model_dump(exclude={"enabled"}) if form.custom_unit_amount else None
    exact = form.unit_amount_decimal if form.unit_amount_decimal is not None else form.unit_amount
    return {
        "billing_scheme": form.billing_scheme,
        "custom_unit_amount": custom,
        "tiers_mode": form.tiers_mode,
        "_tiers": tiers,
        "transform_quantity": form.transform_quantity.model_dump() if form.transform_quantity else None,
        "unit_amount": _whole_amount(exact, form.currency),
        "unit_amount_decimal": None if exact is None else plain(Decimal(exact)),
    }


def _whole_amount(exact: Any, currency: str) -> int | None:
    """The amount where it is one of the currency's: three digits end with a nought."""
    if exact is None or Decimal(exact) != int(Decimal(exact)):
        return None
    if int(exact) % amounts.STEPS.get(currency, 1):
        raise refused(f"Invalid amount for {currency}: it cannot be charged.", param="unit_amount")
    return int(exact)


def _tiers(given: Any) -> list[Row]:
    tiers, below = [], 0
    for place, tier in enumerate(given):
        is_last = place + 1 == len(given)
        if (tier.up_to == "inf") != is_last or (not is_last and int(tier.up_to) <= below):
            raise refused("Tiers must rise, and the last one must go up to `inf`.", param=f"tiers[{place}][up_to]")
        below = 0 if is_last else int(tier.up_to)
        row: Row = {"up_to": None if is_last else below}
        for name in ("unit_amount", "flat_amount"):
            value = getattr(tier, f"{name}_decimal")
            value = value if value is not None else getattr(tier, name)
            row[f"{name}_decimal"] = None if value is None else plain(Decimal(value))
            row[name] = int(value) if value is not None and Decimal(value) == int(Decimal(value)) else None
        tiers.append(row)
    return tiers


def plain(value: Decimal) -> str:
    """A decimal as Stripe writes it: no exponent, no noughts at its end."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def change_price(state: State, row: Row, form: Any) -> Row:
    if form.lookup_key and form.lookup_key != row["lookup_key"]:
        _claim_lookup_key(state, form.lookup_key, transfer=form.transfer_lookup_key)
    return changed(state, row, form, CHANGEABLE, "price")


def _claim_lookup_key(state: State, key: str, *, transfer: bool) -> None:
    holder = next(state.rows("price", lookup_key=key), None)
    if holder is None:
        return
    if not transfer:
        message = f"A price (`{holder['id']}`) already uses that lookup key."
        raise refused(message, param="lookup_key", code="resource_already_exists")
    holder["lookup_key"] = None
    state.emit("price.updated", holder, {"lookup_key": key})


def reckoned(price: Row) -> Row:
    """The price as `amounts` reads it."""
    return {**price, "tiers": price.get("_tiers")}


def cost(price: Row, quantity: int) -> int:
    """What a whole interval costs at a quantity. Raises StripeRefusal where the payer chooses the amount."""
    if price["custom_unit_amount"]:
        raise refused("The amount of this price is chosen at a checkout.", param="price")
    return amounts.of_price(reckoned(price), quantity)


def add_coupon(state: State, form: Any) -> Row:
    if (form.percent_off is None) == (form.amount_off is None):
        raise refused("You must specify exactly one of: percent_off, amount_off.", param="percent_off")
    if form.amount_off is not None and not form.currency:
        raise refused("Missing required param: currency.", param="currency", code="parameter_missing")
    if (form.duration == "repeating") != (form.duration_in_months is not None):
        raise refused("`duration_in_months` goes with `duration=repeating`.", param="duration_in_months")
    if form.id and state.find("coupon", form.id):
        raise refused("Coupon already exists.", param="id", code="resource_already_exists")
    row = state.add(
        "coupon",
        {
            **({"id": form.id} if form.id else {}),
            "amount_off": form.amount_off,
            "created": state.now,
            "currency": form.currency or None,
            "duration": form.duration,
            "duration_in_months": form.duration_in_months,
            "max_redemptions": None,
            "metadata": dict(form.metadata or {}),
            "name": form.name or None,
            "percent_off": None if form.percent_off is None else float(form.percent_off),
            "redeem_by": None,
            "times_redeemed": 0,
            "valid": True,
        },
    )
    state.emit("coupon.created", row)
    return row


def change_coupon(state: State, row: Row, form: Any) -> Row:
    return changed(state, row, form, ("name",), "coupon")


def delete_coupon(state: State, row: Row) -> Row:
    """Nobody can have it any more; who has it keeps its discount."""
    state.emit("coupon.deleted", row)
    row["deleted"] = True
    return {"id": row["id"], "object": "coupon", "deleted": True}


def inline_price(state: State, given: Any) -> str:
    """The id of the price that an item brings itself. Raises StripeRefusal."""
    form = forms.StripePriceForm.model_construct(**{name: getattr(given, name) for name in given.model_fields_set})
    return str(add_price(state, form)["id"])


def add_feature(state: State, form: Any) -> Row:
    row = {"active": True, "lookup_key": form.lookup_key, "metadata": dict(form.metadata or {}), "name": form.name}
    return state.add("entitlements.feature", row)


def attach_feature(state: State, product: Row, form: Any) -> Row:
    feature = state.get("entitlements.feature", form.entitlement_feature, "entitlement_feature")
    shown = dict(feature)
    return state.add("product_feature", {"entitlement_feature": shown, "_product": product["id"]})
