"""The last stage of a job: what follows from the gate's verdict, and asking the gateway for it.

The gateway makes versions live and tries them out; nothing here does.
"""

from feedback.ids import Version
from feedback.policies import Policy, PolicyState
from training.errors import GatewayRefused, Stopped
from training.judging.gate import Report, Verdict
from training.settings import Settings
from training.worker.attempt import Attempt, patiently

_RISEN = (PolicyState.live, PolicyState.canary)


def decide(gate: Report, settings: Settings) -> str:
    """What follows from the gate's verdict: promote, canary, hold or reject."""
    if gate.verdict is Verdict.failed:
        return "reject"
    if gate.verdict is Verdict.passed:
        return settings.gate.on_pass
    return settings.gate.on_inconclusive


def promote_once(attempt: Attempt, policy: Policy) -> None:
    """Ask the gateway to make a candidate live or the canary, as the gate decided, if nothing moved meanwhile."""
    if policy.state not in _RISEN:
        attempt.report["promotion"] = _hindrance(attempt, policy) or _raised(attempt, policy)
    else:  # an earlier attempt got so far
        attempt.report["promotion"] = "done"
    attempt.stage("closing", 0.99)


def _hindrance(attempt: Attempt, policy: Policy) -> str | None:
    """Why the gateway is not asked; None when it is to be."""
    gate = policy.gate or {}
    decision = gate.get("decision")
    if policy.state is not PolicyState.candidate or decision not in ("promote", "canary"):
        return f"not asked for: {policy.version} is {policy.state}, {decision}"
    live = patiently(attempt.registry.view).live
    if live == gate["compared_with"]:
        return None
    return (
        f"not asked for: {live} went live after {policy.version} was compared with {gate['compared_with']}; "
        "promote it by hand, or train again"
    )


def _raised(attempt: Attempt, policy: Policy) -> str:
    """Asks the gateway; what became of it."""
    gate = policy.gate or {}
    is_canary = gate["decision"] == "canary"
    attempt.stage("going on trial" if is_canary else "going live", 0.97)
    if (why := patiently(lambda: attempt.jobs.get(attempt.job.id)).cancelled) is not None:
        raise Stopped(f"not promoted: {why}")
    reason = f"gate {gate['verdict']}: {gate['summary']}"[:1000]
    try:
        if is_canary:
            attempt.gateway.try_out(policy.version, reason)
        else:
            attempt.gateway.promote(policy.version, reason, over=Version(gate["compared_with"]))
    except GatewayRefused as error:
        state = patiently(lambda: attempt.registry.policy(policy.version)).state
        if state not in _RISEN:  # by an earlier call, unanswered
            return f"refused: {error}"
    return "done"
