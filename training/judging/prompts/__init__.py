"""The built-in prompts of the gate: everyday requests, one a line, in the order they are used."""

from importlib.resources import files


def everyday() -> list[str]:
    return files(__package__).joinpath("everyday.txt").read_text(encoding="utf-8").splitlines()
