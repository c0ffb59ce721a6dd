"""Settings from the environment over a file: what is refused, and in which words."""

import os
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from feedback.configuration import Configuration, ConfigurationRefused


class Desk(BaseModel):
    legs: int = Field(default=4, ge=3)
    colour: str = "brown"


class Office(Configuration):
    desk: Desk = Desk()


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty file for the settings, and an environment without any."""
    for name in [name for name in os.environ if name.startswith("BURNISH_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "mine.toml"
    path.touch()
    monkeypatch.setenv("BURNISH_CONFIG", str(path))
    monkeypatch.chdir(tmp_path)
    return path


def test_the_environment_goes_before_the_file_and_both_before_the_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('home = "here"\n[desk]\nlegs = 5\ncolour = "red"\n[lamp]\nwatts = 9\n')
    monkeypatch.setenv("BURNISH_DESK_LEGS", "6")
    found = Office.read()
    assert (found.desk.legs, found.desk.colour, found.home) == (6, "red", file.parent / "here")


@pytest.mark.parametrize(
    ("text", "environment", "says"),
    [
        ("", {"BURNISH_DESK_LEGS": "2"}, ["desk.legs = '2' (BURNISH_DESK_LEGS)", "greater than or equal to 3"]),
        ("[desk]\nlegs = 1\ncolour = 7", {}, ["desk.legs = 1", "desk.colour = 7"]),
        ("", {"BURNISH_DESK": "x"}, ['"desk"', "a section is a table"]),
        ("[desk\nlegs = 4", {}, ["mine.toml cannot be read", "line 1"]),
    ],
)
def test_what_is_wrong_is_named(
    text: str, environment: dict[str, str], says: list[str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(text)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationRefused) as refused:
        Office.read()
    for words in says:
        assert words in str(refused.value)
    with pytest.raises(SystemExit, match="burnish: cannot start: ") as ended:
        Office.read_or_exit()
    assert str(refused.value) in str(ended.value)


def test_a_file_that_is_no_text_is_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationRefused, match=r"mine\.toml cannot be read"):
        Office.read()
