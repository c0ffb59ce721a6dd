"""The example configuration: every value in it is the default, as it says."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from deploy.settings import LaunchSettings
from serve.settings import Settings as GatewaySettings
from tests.services import ROOT
from training.settings import Settings as TrainingSettings
from ui.settings import Settings as PageSettings

EXAMPLE = tomllib.loads((ROOT / "burnish.toml.example").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "settings",
    [LaunchSettings, GatewaySettings, TrainingSettings, PageSettings],
    ids=["deploy", "serve", "training", "ui"],
)
def test_every_value_of_the_example_is_the_default(settings: Any) -> None:
    defaults = {name: field.default for name, field in settings.model_fields.items()}
    for section, values in EXAMPLE.items():
        if section == "home":
            assert defaults["home"] == Path(values)
        elif section in defaults:
            for name, value in values.items():
                default = getattr(defaults[section], name, value)
                assert default == value, f"[{section}] {name} = {value!r}, but the default is {default!r}"
