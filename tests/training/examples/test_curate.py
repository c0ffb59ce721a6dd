"""Pairs as token ids: what is held out, what is left out and why, when the job stops."""

from typing import Any

import pytest

from feedback.demonstrations import Demonstration, DemonstrationSet, Origin
from feedback.holdout import is_held_out
from feedback.ids import EventId
from feedback.pairs import Answer, Pair, PairSet
from feedback.thumbs import Thumb, ThumbSet
from tests.training.tiny import make_kto_recipe, make_recipe, make_sft_recipe, make_tokenizer
from training.errors import TokenMismatch, TooFewPairs
from training.examples.asked import held_out_prompts
from training.examples.curate import curate, curate_demonstrations, curate_thumbs, tolerated_mismatches
from training.examples.tokens import ChatTokens

TOKENS = ChatTokens(make_tokenizer())


def make_messages(n: int) -> tuple[dict[str, Any], ...]:
    return ({"role": "user", "content": f"Question {n}"},)


TRAINED = [make_messages(n) for n in range(60) if not is_held_out(make_messages(n))]
KEPT_APART = [make_messages(n) for n in range(60) if is_held_out(make_messages(n))]


def make_answer(text: str, **overrides: Any) -> Answer:
    return Answer(text=text, **{"token_ids": TOKENS.answer(text), **overrides})


def make_pair(messages: tuple[dict[str, Any], ...] = TRAINED[0], **overrides: Any) -> Pair:
    body = {
        "event_id": EventId("ev-1"),
        "messages": messages,
        "prompt_token_ids": TOKENS.prompt(messages),
        "chosen": make_answer("good"),
        "rejected": make_answer("bad"),
        **overrides,
    }
    return Pair(**body)


def test_engine_tokens_are_kept_as_they_are_even_when_the_answer_was_cut() -> None:
    cut = make_answer("good", token_ids=TOKENS.answer("good")[:-1])
    [pair] = curate(PairSet((make_pair(chosen=cut, weight=0.5),)), TOKENS, make_recipe()).train
    assert pair.prompt == TOKENS.prompt(TRAINED[0])
    assert pair.chosen == TOKENS.answer("good")[:-1]
    assert pair.rejected[-1] == TOKENS.end_id
    assert pair.weight == 0.5


def test_a_persons_own_text_is_tokenised_as_a_finished_answer() -> None:
    edit = make_pair(chosen=Answer(text="better"), prompt_token_ids=None)
    [pair] = curate(PairSet((edit,)), TOKENS, make_recipe()).train
    assert pair.chosen == TOKENS.answer("better")
    assert pair.prompt == TOKENS.prompt(TRAINED[0])


def test_held_out_prompts_are_kept_apart() -> None:
    found = PairSet((make_pair(TRAINED[0]), make_pair(KEPT_APART[0]), make_pair(TRAINED[1])))
    curated = curate(found, TOKENS, make_recipe())
    assert (len(curated.train), len(curated.held_out)) == (2, 1)
    assert held_out_prompts(found.pairs, TOKENS) == [KEPT_APART[0]]


def test_votes_on_a_retyped_prompt_are_votes_on_one_question() -> None:
    retyped = ({"role": "user", "content": " question  0\n"}, {"role": "assistant", "content": "Yes?"}, *TRAINED[1])
    same, other = ({"role": "user", "content": "Question 0"},), ({"role": "user", "content": "Question 00"},)
    curated = curate(PairSet(tuple(make_pair(m) for m in (retyped, same, other))), TOKENS, make_recipe())
    asked = [pair.question for pair in (*curated.train, *curated.held_out)]
    assert sorted(asked) == ["question 0", "question 0", "question 00"]


def test_what_is_left_out_is_counted_by_reason() -> None:
    stopped = make_answer("go", token_ids=TOKENS.answer("good"))
    found = PairSet(
        (
            make_pair(),
            make_pair(rejected=make_answer("good")),
            make_pair(rejected=make_answer("long " * 60)),
            make_pair(chosen=stopped),
        ),
        {"tie": 3},
    )
    curated = curate(found, TOKENS, make_recipe(max_example_tokens=200))
    assert curated.report() == {
        "trained_on": 1,
        "held_out": 0,
        "left_out": {
            "tie": 3,
            "equal answers": 1,
            "longer than 200 tokens": 1,
            "answer tokens do not say the answer's text": 1,
        },
        "mismatched": {"events": [], "tolerated": 1},
    }


def make_mismatch(event_id: str) -> Pair:
    return make_pair(event_id=EventId(event_id), prompt_token_ids=(1, *TOKENS.prompt(TRAINED[0])))


def test_prompts_the_engine_read_otherwise_stop_the_job_by_name() -> None:
    found = PairSet((make_pair(), make_mismatch("ev-7"), make_mismatch("ev-9")))
    with pytest.raises(TokenMismatch, match=r"2 of 3 votes .* 1 may be left out .*events ev-7, ev-9\. The"):
        curate(found, TOKENS, make_recipe())


def test_a_recipe_may_tolerate_no_mismatch() -> None:
    with pytest.raises(TokenMismatch, match="1 of 2 votes"):
        curate(PairSet((make_pair(), make_mismatch("ev-7"))), TOKENS, make_recipe(max_mismatched_share=0))


def test_one_prompt_the_engine_read_otherwise_is_left_out_counted_and_named() -> None:
    curated = curate(PairSet((make_pair(), make_mismatch("ev-7"))), TOKENS, make_recipe())
    assert len(curated.train) == 1
    assert curated.skipped == {"prompt tokens differ from the engine's": 1}
    assert curated.report()["mismatched"] == {"events": ["ev-7"], "tolerated": 1}


WRONG_END = 3
"""A token of some letter, as an engine would end answers by another tokenizer's end token."""


def make_ended(last: int, **overrides: Any) -> Answer:
    """An answer that the engine says has ended, and its last token."""
    ids = (*TOKENS.answer("good")[:-1], last)
    return make_answer(TOKENS.text(ids), token_ids=ids, **{"finish_reason": "stop", **overrides})


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_an_answer_that_ended_with_another_token_than_the_template_writes_is_a_mismatch(side: str) -> None:
    odd = make_pair(event_id=EventId("ev-7"), **{side: make_ended(WRONG_END)})
    curated = curate(PairSet((make_pair(), odd)), TOKENS, make_recipe())
    assert len(curated.train) == 1
    assert curated.skipped == {"end token differs from the engine's": 1}
    assert curated.mismatched == ("ev-7",)
    says = rf"2 of 3 votes .*event ev-7: the engine ended the answer with token {WRONG_END} .*with {TOKENS.end_id}"
    with pytest.raises(TokenMismatch, match=says):
        curate(PairSet((make_pair(), odd, odd.model_copy(update={"event_id": "ev-8"}))), TOKENS, make_recipe())


@pytest.mark.parametrize(
    "answer",
    [
        make_ended(TOKENS.end_id),
        make_ended(TOKENS.end_id, stops=(WRONG_END, "never said")),
        make_ended(WRONG_END, finish_reason="length"),
        make_ended(WRONG_END, finish_reason=None),
        make_ended(WRONG_END, stops=(9, WRONG_END)),
        make_ended(WRONG_END, stops=("never said", "d" + TOKENS.text([WRONG_END]))),
    ],
)
def test_an_answer_that_was_cut_or_stopped_where_the_caller_wanted_needs_no_end_token(answer: Answer) -> None:
    [pair] = curate(PairSet((make_pair(chosen=answer),)), TOKENS, make_recipe()).train
    assert pair.chosen == answer.token_ids


def test_a_stop_that_did_not_end_the_answer_excuses_nothing() -> None:
    odd = make_pair(chosen=make_ended(WRONG_END, stops=("never said", 9)))
    with pytest.raises(TokenMismatch, match="1 of 1 votes"):
        curate(PairSet((odd,)), TOKENS, make_recipe(max_mismatched_share=0))


def test_a_stop_string_is_found_among_special_tokens_written_out_or_left_out() -> None:
    opened = int(TOKENS.prompt(TRAINED[0])[0])
    stopped = make_ended(opened, stops=("<|im_start|>",))
    around = (*TOKENS.answer("go")[:-1], opened, *TOKENS.answer("od")[:-1])
    skipped = make_answer("good", token_ids=around, finish_reason="stop", stops=("ood",))
    pairs = (make_pair(chosen=stopped), make_pair(chosen=skipped))
    assert len(curate(PairSet(pairs), TOKENS, make_recipe(max_mismatched_share=0)).train) == 2


def test_thumbs_and_demonstrations_are_checked_for_their_end_too() -> None:
    body = {"event_id": EventId("ev-7"), "messages": TRAINED[0], "prompt_token_ids": None}
    answer = make_ended(WRONG_END)
    thumb, shown = Thumb(**body, answer=answer, up=True), Demonstration(**body, answer=answer, origin=Origin.liked)
    with pytest.raises(TokenMismatch, match="ev-7"):
        curate_thumbs(ThumbSet((thumb,)), TOKENS, make_kto_recipe(max_mismatched_share=0))
    liked = make_sft_recipe(shares={"liked": 1.0}, max_mismatched_share=0)
    with pytest.raises(TokenMismatch, match="ev-7"):
        curate_demonstrations(DemonstrationSet((shown,)), TOKENS, liked)


@pytest.mark.parametrize(("share", "n", "tolerated"), [(0.02, 10, 1), (0.02, 149, 2), (0.5, 10, 5), (0.0, 1000, 0)])
def test_a_share_of_the_pairs_but_one_at_least_may_differ(share: float, n: int, tolerated: int) -> None:
    assert tolerated_mismatches(share, n) == tolerated


def test_a_conversation_with_tool_calls_is_learned_from() -> None:
    asked = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]}
    result = {"role": "tool", "content": "4", "tool_call_id": "c"}
    messages = (*TRAINED[0], asked, result)
    read = TOKENS.prompt((*TRAINED[0], {"role": "assistant", "content": ""}, result))
    [pair] = curate(PairSet((make_pair(messages, prompt_token_ids=read),)), TOKENS, make_recipe()).train
    assert pair.prompt == read


def test_messages_that_the_template_cannot_take_are_left_out_counted_and_not_asked_again() -> None:
    tokenizer = make_tokenizer()
    strict = "{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    loop = "{% for m in messages %}"
    tokenizer.chat_template = tokenizer.chat_template.replace(loop, loop + strict)
    tokens = ChatTokens(tokenizer)
    refused = [make_pair((*m, {"role": "tool", "content": "4"})) for m in (TRAINED[0], KEPT_APART[0])]
    found = PairSet((make_pair(TRAINED[1]), make_pair(KEPT_APART[1]), *refused))
    curated = curate(found, tokens, make_recipe())
    assert (len(curated.train), len(curated.held_out)) == (1, 1)
    assert curated.skipped == {"the chat template cannot take the messages": 2}
    assert held_out_prompts(found.pairs, tokens) == [KEPT_APART[1]]


def test_too_few_pairs_are_refused_with_what_became_of_the_rest() -> None:
    with pytest.raises(TooFewPairs, match=r"1 pairs are left to train on, the recipe needs 2 \(kept apart: 1"):
        curate(PairSet((make_pair(), make_pair(KEPT_APART[0]))), TOKENS, make_recipe(min_pairs=2))
