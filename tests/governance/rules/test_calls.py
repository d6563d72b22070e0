from governance.rules.calls import Caller, Usage


def test_what_is_not_said_of_a_caller_or_of_what_it_used_is_nothing() -> None:
    caller, used = Caller(1, "acme"), Usage()

    assert (caller.agent, caller.key_id, caller.key_prefix) == ("", None, "")
    assert (caller.user, caller.session, caller.task) == ("", "", "")
    assert (used.provider, used.model, used.unit) == ("", "", "token")
    assert (used.input_tokens, used.cached_tokens, used.output_tokens, used.units) == (0, 0, 0, 0)
