"""How every process reads its settings: the environment over `burnish.toml`, once, at the process's edge.

Each folder has its own settings of its own sections; sections of other folders pass through unread.
"""

import os
import tomllib
from pathlib import Path
from typing import Self

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from feedback.errors import FeedbackError


class ConfigurationRefused(FeedbackError):
    """A setting is out of its bounds or no value at all, or the file cannot be read."""


class Configuration(BaseSettings):
    """A folder's settings by their names: `home` is BURNISH_HOME, `redis.port` BURNISH_REDIS_PORT or `[redis] port`."""

    model_config = SettingsConfigDict(
        env_prefix="BURNISH_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="ignore",
        frozen=True,
    )

    home: Path = Path(".burnish")

    @classmethod
    def read(cls) -> Self:
        """The settings with an absolute home: other processes are told paths in it.

        ConfigurationRefused names everything that is wrong, with its value.
        """
        try:
            settings = cls()
        except ValidationError as error:
            raise ConfigurationRefused("; ".join(_problem(wrong) for wrong in error.errors())) from error
        except SettingsError as error:
            raise ConfigurationRefused(f"{error}: {error.__cause__}; a section is a table of its settings") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise ConfigurationRefused(f"{_file()} cannot be read: {error}") from error
        return settings.model_copy(update={"home": settings.home.expanduser().absolute()})

    @classmethod
    def read_or_exit(cls) -> Self:
        """As `read`, at the start of a process: ends it with the reason where they are refused."""
        try:
            return cls.read()
        except ConfigurationRefused as error:
            raise SystemExit(f"burnish: cannot start: {error}") from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _file())


def _file() -> str:
    return os.environ.get("BURNISH_CONFIG", "burnish.toml")


def _problem(wrong: ErrorDetails) -> str:
    path = [str(part) for part in wrong["loc"]]
    return f"{'.'.join(path)} = {wrong['input']!r} (BURNISH_{'_'.join(path).upper()}): {wrong['msg']}"
