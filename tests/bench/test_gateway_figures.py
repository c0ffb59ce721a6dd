"""The figures of `make bench-gateway`, from rounds made by hand."""

from tests.bench.gateway_figures import Round, added_s, interval, median, result


def make_round(slowness: float = 0.0, **events: float) -> Round:
    """Ours adds 2, 3 and 4 ms, LiteLLM ten times as much, the pass-through 2 ms; `slowness` (s) hits all alike."""
    added_ms = {"direct": (0, 0, 0), "ours": (2, 3, 4), "litellm": (20, 30, 40), "floor": (2, 2, 2)}
    return {
        side: {
            **{kind: slowness + ms / 1000 for kind, ms in zip(("first_s", "stream_s", "whole_s"), times, strict=True)},
            **({"events_per_cpu_s": events[side]} if side in events else {}),
        }
        for side, times in added_ms.items()
    }


def test_what_a_side_adds_is_taken_from_the_bare_engine_of_the_same_round() -> None:
    rounds = [make_round(slowness) for slowness in (0.0, 0.5, 0.001)]
    assert round(added_s(rounds, "ours", "stream_s"), 9) == 0.003


def test_each_comparison_is_known_by_its_worst_kind_of_time() -> None:
    streamed = make_round(ours=9000, litellm=1500, floor=20000)
    found = result([streamed, make_round(), make_round()], [{"ours": 97.0, "direct": 100.0}])
    assert found["added_vs_litellm"] == 0.1
    assert found["added_vs_floor"] == 2.0
    assert found["added_vs_floor_each"]["first_s"] == (1.0, 1.0, 1.0)
    assert found["events_vs_litellm"] == 6.0
    assert found["throughput_vs_direct"] == 0.97


def test_an_interval_is_as_wide_as_the_rounds_differ_and_always_the_same() -> None:
    low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0], median)
    assert 1.0 <= low < 3.0 < high <= 5.0
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0], median) == (low, high)
    assert interval([2.0] * 5, median) == (2.0, 2.0)
