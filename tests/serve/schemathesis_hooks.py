"""What JSON Schema cannot say of a request, made true in the cases that schemathesis draws as valid ones.

A tool choice names one of the tools, a call in a format is not asked for, the left answer is one of the two, a recipe
is one that a worker has announced, a score is written without a point, a canary's votes can suffice. And most cases
name a model, a version and turns ($BURNISH_FUZZ_TURNS) that exist, or nearly all would end at a 404. All else must hold
by the schema alone.
"""

import os
from typing import Any

import schemathesis
from schemathesis import GenerationMode

TURNS = os.environ.get("BURNISH_FUZZ_TURNS", "").split(",")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Only where the whole case is meant to be valid."""
    if case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE:
        return
    if case.method.upper() == "POST" and case.path == "/operator/policies":
        # No drawn name is that of an adapter's folder: it is to be refused.
        case.meta.generation.mode = GenerationMode.NEGATIVE
        return
    if isinstance(case.body, dict):
        mend(case.body)
        make_real(case.body)
    if isinstance(case.path_parameters, dict):
        make_real(case.path_parameters)


def mend(body: dict[str, Any]) -> None:
    choice, tools = body.get("tool_choice"), body.get("tools")
    if isinstance(choice, dict) and tools:
        choice["function"]["name"] = tools[0]["function"]["name"]
    if choice not in (None, "none", "auto"):
        body.pop("response_format", None)
    if isinstance(body.get("rules"), dict):
        body["rules"].pop("most_votes", None)
        body["rules"].pop("least_votes", None)
    if isinstance(body.get("score"), float):
        body["score"] = int(body["score"])
    if isinstance(body.get("recipe"), str):
        body["recipe"] = "dpo"


def make_real(named: dict[str, Any]) -> None:
    """Three of four names are made those of things that are there; which ones, the name itself decides."""
    for key, real in (("model", "burnish"), ("version", "v0000-base"), ("turn_id", TURNS[0]), ("turn_ids", TURNS[:2])):
        if key in named and len(str(named[key])) % 4:
            named[key] = list(real) if isinstance(real, list) else real
    if isinstance(named.get("shown"), dict) and "turn_ids" in named:
        named["shown"]["left"] = named["turn_ids"][0]
