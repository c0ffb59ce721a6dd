"""What the status page says of a job's examples and of its reward model."""

from ui.status.job_report import report_html


def test_what_was_learned_from_and_what_was_left_out_is_said() -> None:
    pairs = {"trained_on": 79, "held_out": 17, "left_out": {"tie": 3, "equal answers": 1, "edit": 0}}
    told = report_html({"pairs": pairs})
    assert "Learns from 79; 17 held out to judge by. Left out: 1 equal answers, 3 tie." in told
    assert "Left out" not in report_html({"pairs": {**pairs, "left_out": {}}})


def test_what_does_not_fit_into_the_bases_context_is_said() -> None:
    assert '<p class="faint">Too long.</p>' in report_html({"context": "Too long."})


def test_a_reward_model_is_told_with_its_interval() -> None:
    worth = {"pairs": 40, "accuracy": 0.775, "low": 0.615, "high": 0.892}
    worth |= {"calibration_error": 0.06, "length_correlation": 0.3}
    told = report_html({"reward_model": {"name": "reward-0123456789ab", "report": worth}})
    assert "right on 78% [62%, 89%] of 40 held-out votes; off by 0.06" in told
    assert "+0.30" in told
    assert "head" not in told
    heads = {"overall": worth, "harmless": {**worth, "pairs": 12}}
    of_two = report_html({"reward_model": {"name": "reward-0123456789ab", "report": {**worth, "heads": heads}}})
    assert "Its head harmless: right on 78% [62%, 89%] of 12 held-out votes" in of_two
    assert "no held-out votes" in report_html({"reward_model": {"name": "reward-0123456789ab", "report": None}})


def test_nothing_is_said_of_a_job_that_has_told_nothing_and_nobodys_text_becomes_markup() -> None:
    assert report_html({}) == ""
    assert "<b>" not in report_html({"pairs": {"trained_on": 1, "left_out": {"<b>": 2}}})
