"""Moves between policy states and what a public model id names: tables, no Redis."""

import itertools

import pytest

from feedback import moves
from feedback.errors import MoveRefused, UnknownPolicy
from feedback.ids import BASE_VERSION, LineName
from feedback.moves import MOVES, Who
from feedback.policies import Policy, PolicyState, RegistryView, resolve, version_name

S = PolicyState
WHO = Who(actor="op", reason="because", at=5.0)


def make_policy(counter: int, state: PolicyState) -> Policy:
    version = BASE_VERSION if counter == 0 else version_name(counter, f"{counter:064x}")
    return Policy(
        version=version,
        counter=counter,
        state=state,
        base_digest="b" * 64,
        created_at=float(counter),
    )


def make_view(*states: PolicyState, lives: tuple[int, ...] = (0,)) -> RegistryView:
    known = [make_policy(i, state) for i, state in enumerate(states)]
    return RegistryView(
        1,
        LineName("burnish"),
        tuple(known[i].version for i in lives),
        {p.version: p for p in known},
    )


def states_after(view: RegistryView, change: moves.Change) -> list[PolicyState]:
    rows = dict(view.policies) | {p.version: p for p in change.policies}
    return [p.state for p in rows.values()]


def test_promoting_retires_the_live_one_and_rolling_back_withdraws_the_promoted() -> None:
    view = make_view(S.live, S.candidate)
    up = moves.promote(view, view.policies[list(view.policies)[1]].version, WHO)
    assert states_after(view, up) == [S.retired, S.live]
    after = RegistryView(
        2,
        view.line,
        up.lives,
        dict(view.policies) | {p.version: p for p in up.policies},
    )
    assert after.previous == BASE_VERSION
    down = moves.rollback(after, WHO)
    assert states_after(after, down) == [S.live, S.withdrawn]
    assert down.lives == (BASE_VERSION,)
    assert down.policies[0].history[-1].reason == "because"


@pytest.mark.parametrize("state", [s for s in S if s not in (S.candidate, S.canary)])
def test_only_candidates_and_canaries_can_be_promoted(state: PolicyState) -> None:
    view = make_view(S.live, state)
    with pytest.raises(MoveRefused, match=f"is {state}"):
        moves.promote(view, list(view.policies)[1], WHO)


def test_a_withdrawn_version_never_comes_back_not_even_by_rolling_back_over_it() -> None:
    view = make_view(S.retired, S.retired, S.live, lives=(0, 1, 2))
    v1 = list(view.policies)[1]
    with pytest.raises(MoveRefused, match="by rollback only"):
        moves.withdraw(view, v1, WHO)
    for start, to in itertools.product((S.withdrawn, S.rejected), S):
        assert to not in MOVES[start]


def test_withdrawing_the_live_version_rolls_back_and_the_base_cannot_be_withdrawn() -> None:
    view = make_view(S.retired, S.live, lives=(0, 1))
    assert states_after(view, moves.withdraw(view, view.live, WHO)) == [
        S.live,
        S.withdrawn,
    ]
    with pytest.raises(MoveRefused, match="always there"):
        moves.withdraw(view, BASE_VERSION, WHO)
    with pytest.raises(MoveRefused, match="nothing was live before"):
        moves.rollback(make_view(S.live), WHO)


@pytest.mark.parametrize(
    ("model", "operator", "counter"),
    [
        ("burnish", False, 1),
        ("burnish@v0000-base", False, 0),
        ("burnish@v0000", False, 0),
        ("burnish@v0001", False, 1),
        ("v0001", False, 1),
        ("burnish@v0002", True, 2),
    ],
)
def test_a_model_id_names_a_policy(model: str, operator: bool, counter: int) -> None:
    view = make_view(S.retired, S.live, S.draft, lives=(0, 1))
    assert resolve(view, model, operator=operator).counter == counter


@pytest.mark.parametrize("operator", [True, False])
@pytest.mark.parametrize("model", ["burnish@v0001", "v0001"])
def test_a_withdrawn_version_answers_nobody(model: str, operator: bool) -> None:
    with pytest.raises(UnknownPolicy, match=repr(model)):
        resolve(make_view(S.live, S.withdrawn), model, operator=operator)


@pytest.mark.parametrize("state", [S.draft, S.rejected])
def test_an_operator_can_pin_what_is_being_judged_and_nobody_else_can(state: PolicyState) -> None:
    view = make_view(S.live, state)
    assert resolve(view, "burnish@v0001", operator=True).state is state
    with pytest.raises(UnknownPolicy):
        resolve(view, "burnish@v0001")


@pytest.mark.parametrize(
    "model",
    [
        "gpt-4o",
        "burnish@v0002",
        "other@v0001",
        "burnish@v9",
        "v0001-0000",
        "",
        "burnish@",
    ],
)
def test_a_model_id_that_names_none_is_refused_with_its_name(model: str) -> None:
    with pytest.raises(UnknownPolicy, match=repr(model)):
        resolve(make_view(S.retired, S.live, S.draft, lives=(0, 1)), model)


def test_a_rollout_answers_operators_by_its_whole_version_and_moves_nowhere() -> None:
    view = make_view(S.live, S.rollout)
    rollout = view.policies[list(view.policies)[1]]
    assert resolve(view, f"burnish@{rollout.version}", operator=True) == rollout
    for model, operator in (("burnish@v0001", True), (f"burnish@{rollout.version}", False)):
        with pytest.raises(UnknownPolicy):
            resolve(view, model, operator=operator)
    assert not MOVES[S.rollout]
    for move in (moves.promote, moves.withdraw):
        with pytest.raises(MoveRefused):
            move(view, rollout.version, WHO)
