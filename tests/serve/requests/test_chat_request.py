"""From a body to what the engine is asked: the field table, defaults, and second answers. Pure."""

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedback.ids import TenantId, TurnId, UserId
from serve.errors import BadRequest, Forbidden, NotFound
from serve.requests.chat_request import MAX_NESTING, Asked, Limits, as_second_answer, cache_salt, parse_request
from serve.requests.fields import CHAT_FIELDS, COMPLETION_FIELDS, Treatment
from tests.feedback.makers import make_turn
from tests.serve.conftest import ask

LIMITS = Limits(max_n=4, max_tokens=2048)
FIRST = make_turn(id=TurnId("t1"), user=UserId("ann"), messages=({"role": "user", "content": "hi"},))


def chat(*, operator: bool = False, **fields: Any) -> Asked:
    return parse_request(orjson.dumps(ask(**fields)), "chat", LIMITS, operator=operator)


def body_of(asked: Asked) -> dict[str, object]:
    body: dict[str, object] = orjson.loads(asked.engine_body("engine-name", TenantId("home")))
    return body


def test_the_engine_gets_what_was_asked_and_always_token_ids() -> None:
    asked = chat(temperature=0.5, max_tokens=9, seed=3, n=2, user="ann", metadata={"session": "s"}, stop=None)
    assert body_of(asked) == {
        "model": "engine-name",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "max_tokens": 9,
        "seed": 3,
        "n": 2,
        "stream": False,
        "return_token_ids": True,
        "cache_salt": cache_salt(TenantId("home")),
    }
    assert asked.sampling == {"temperature": 0.5, "max_tokens": 9, "seed": 3}
    assert (asked.user, asked.session, asked.store, asked.compare_with) == ("ann", "s", True, None)


def test_nothing_that_is_for_the_gateway_reaches_the_engine() -> None:
    private: dict[str, Any] = {"user": "ann", "store": False, "metadata": {"session": "s"}, "safety_identifier": "x"}
    assert not body_of(chat(**private)).keys() & private.keys()


def test_each_tenant_has_a_cache_of_its_own() -> None:
    assert cache_salt(TenantId("home")) != cache_salt(TenantId("elsewhere"))
    assert cache_salt(TenantId("home")) == cache_salt(TenantId("home"))


def nested(levels: int) -> Any:
    """An object in an object in an object, …"""
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def test_what_is_nested_too_deep_is_refused_by_its_field() -> None:
    fits = {"type": "json_schema", "json_schema": {"name": "x", "schema": nested(MAX_NESTING - 2)}}
    assert chat(response_format=fits).sampling["response_format"] == fits
    calls = [{"role": "assistant", "tool_calls": [nested(MAX_NESTING)]}]
    deep: tuple[tuple[str, Any], ...] = (
        ("response_format", {"type": "text", "x": nested(MAX_NESTING)}),
        ("tools", [nested(MAX_NESTING)]),
        ("tool_choice", nested(200)),
        ("messages", calls),
        ("unknown", nested(200)),
    )
    for name, value in deep:
        with pytest.raises(BadRequest) as refused:
            chat(**{name: value})
        assert refused.value.param == name
        assert "nested" in refused.value.message


def test_safety_identifier_is_the_person_where_user_is_not_given() -> None:
    assert chat(safety_identifier="eve").user == "eve"
    assert chat(safety_identifier="eve", user="ann").user == "ann"


def test_max_completion_tokens_wins_over_max_tokens() -> None:
    assert body_of(chat(max_tokens=5, max_completion_tokens=7))["max_tokens"] == 7


def test_messages_are_made_plain() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": "be kind", "extra": 1},
        {"role": "user", "content": parts, "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "c", "tool_calls": None},
    ]
    assert chat(messages=messages).messages == (
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "one\ntwo", "name": "ann"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "c"},
    )


@pytest.mark.parametrize("table", [CHAT_FIELDS, COMPLETION_FIELDS])
def test_the_field_table_says_why_and_how(table: dict[str, object]) -> None:
    for name, field in (CHAT_FIELDS if table is CHAT_FIELDS else COMPLETION_FIELDS).items():
        if field.treatment in (Treatment.refused, Treatment.ignored):
            assert field.why, name
        if field.treatment is Treatment.sent:
            assert field.check, name


@pytest.mark.parametrize("name", [n for n, f in CHAT_FIELDS.items() if f.treatment is Treatment.refused])
def test_refused_fields_are_refused_whatever_they_hold(name: str) -> None:
    values: tuple[object, ...] = ({}, [], 0, "", False)
    for value in values:
        with pytest.raises(BadRequest) as refused:
            chat(**{name: value})
        assert refused.value.code == "unsupported_parameter"


def test_ignored_fields_change_nothing() -> None:
    assert body_of(chat(service_tier="auto", verbosity="low", prompt_cache_key="k")) == body_of(chat())


@pytest.mark.parametrize("priority", [0, 1, 100])
def test_operators_may_say_how_long_a_request_can_wait(priority: int) -> None:
    asked = chat(priority=priority, temperature=0.5, operator=True)
    assert body_of(asked)["priority"] == priority
    assert asked.sampling == {"temperature": 0.5}, "compared answers may differ in it"


def test_a_priority_that_nobody_gave_is_not_sent() -> None:
    assert "priority" not in body_of(chat(operator=True))
    assert "priority" not in body_of(chat(priority=None))


def test_callers_who_are_no_operators_have_the_users_priority() -> None:
    assert body_of(chat(priority=0))["priority"] == 0
    with pytest.raises(Forbidden) as refused:
        chat(priority=1)
    assert refused.value.param == "priority"
    assert "priority is 1; without the scope 'operator' it must be 0" in refused.value.message


@pytest.mark.parametrize("priority", [-1, 101, 1.5, True, "1", [1]])
@pytest.mark.parametrize("operator", [True, False])
def test_a_priority_is_a_whole_number_from_0_to_100(priority: Any, operator: bool) -> None:
    with pytest.raises(BadRequest, match="a whole number from 0 to 100") as refused:
        chat(priority=priority, operator=operator)
    assert refused.value.param == "priority"


Values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*CHAT_FIELDS, "unknown"]), Values, max_size=6))
def test_any_body_is_either_refused_or_safe(fields: dict[str, object]) -> None:
    try:
        raw = orjson.dumps(ask() | fields)
    except TypeError:
        return
    try:
        asked = parse_request(raw, "chat", LIMITS)
    except (BadRequest, Forbidden):
        return
    assert asked.engine_fields.get("priority", 0) == 0
    assert 1 <= asked.n <= LIMITS.max_n
    assert asked.engine_fields.keys() <= {n for n, f in CHAT_FIELDS.items() if f.treatment is Treatment.sent} | {
        "max_tokens"
    }


# Second answers ------------------------------------------------------------------------------------------------------
def test_a_second_answer_takes_over_the_settings_but_not_the_seed() -> None:
    first = FIRST.model_copy(update={"sampling": {"temperature": 0.7, "max_tokens": 20, "seed": 1}})
    second = as_second_answer(chat(seed=2, metadata={"compare_with": "t1"}), first)
    assert second.sampling == {"temperature": 0.7, "max_tokens": 20, "seed": 2}
    assert second.user == "ann"
    assert "seed" not in as_second_answer(chat(), first).sampling


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": "hello"}]}, "metadata.compare_with"),
        ({"temperature": 0.2}, "temperature"),
        ({"top_p": 0.5}, "top_p"),
        ({"max_tokens": 21}, "max_tokens"),
        ({"seed": 1}, "seed"),
    ],
)
def test_a_second_answer_to_another_prompt_or_otherwise_sampled_is_400(fields: dict[str, object], param: str) -> None:
    first = FIRST.model_copy(update={"sampling": {"temperature": 0.7, "max_tokens": 20, "seed": 1}})
    with pytest.raises(BadRequest) as refused:
        as_second_answer(chat(**fields), first)
    assert refused.value.param == param


def test_a_second_answer_may_wait_longer_than_the_first() -> None:
    first = FIRST.model_copy(update={"sampling": {"temperature": 0.7}})
    second = as_second_answer(chat(priority=3, operator=True), first)
    assert second.sampling == {"temperature": 0.7}
    assert body_of(second)["priority"] == 3


def test_a_second_answer_to_another_persons_turn_is_404() -> None:
    with pytest.raises(NotFound):
        as_second_answer(chat(user="bob"), FIRST)
    assert as_second_answer(chat(user="ann"), FIRST).user == "ann"


def test_a_chat_is_no_second_answer_to_a_completion() -> None:
    with pytest.raises(BadRequest):
        as_second_answer(chat(), FIRST.model_copy(update={"kind": "completion"}))
