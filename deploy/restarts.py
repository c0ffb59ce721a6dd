"""When a process that died is started again, and when that is given up. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RestartRules:
    """A death is *quick* when the process had not been ready for `settled_s` seconds without a break."""

    settled_s: float = 20.0
    first_delay_s: float = 0.5
    longest_delay_s: float = 15.0
    quick_deaths: int = 6


def quick_deaths_after(rules: RestartRules, before: int, ready_for_s: float | None) -> int:
    """The count of quick deaths in a row, this one included; `ready_for_s` is None when it never was ready."""
    settled = ready_for_s is not None and ready_for_s >= rules.settled_s
    return 1 if settled else before + 1


def restart_delay_s(rules: RestartRules, quick_deaths: int) -> float | None:
    """Seconds until the next start, doubling from death to death; None when it is to be given up."""
    if quick_deaths >= rules.quick_deaths:
        return None
    return min(rules.longest_delay_s, rules.first_delay_s * 2.0 ** (quick_deaths - 1))
