"""Makers of policies and of the registry's views with sensible defaults."""

from collections.abc import Sequence

from feedback.ids import BASE_VERSION, LineName
from feedback.policies import Policy, PolicyState, RegistryView, version_name


def make_policy(counter: int, state: PolicyState) -> Policy:
    """The policy of the `counter`-th adapter; 0 is the bare base."""
    version = version_name(counter, f"{counter:064x}") if counter else BASE_VERSION
    adapter = version if counter else None
    return Policy(version=version, counter=counter, state=state, base_digest="b", adapter=adapter, created_at=counter)


def make_view(*lives: Policy, others: Sequence[Policy] = (), epoch: int = 1) -> RegistryView:
    """A registry in which `lives` were live one after the other, the last one now."""
    known = {policy.version: policy for policy in (*lives, *others)}
    return RegistryView(epoch, LineName("burnish"), tuple(policy.version for policy in lives), known)
