"""`manifest.json` of an adapter directory: what its maker says it is. Read here, written by training and by imports."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from feedback.policies import Imported

MANIFEST = "manifest.json"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

TokenId = Annotated[int, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Probe(_Frozen):
    """Fixed tokens and log-probs (nats) of `token_ids[start:]`, with the adapter and without."""

    token_ids: tuple[TokenId, ...] = Field(min_length=2, max_length=2048)
    start: int = Field(ge=1)
    base: tuple[float, ...]
    adapter: tuple[float, ...]

    @model_validator(mode="after")
    def _one_number_per_token(self) -> "Probe":
        scored = len(self.token_ids) - self.start
        if scored < 1 or len(self.base) != scored or len(self.adapter) != scored:
            raise ValueError(
                f"a probe of {len(self.token_ids)} tokens from {self.start} on needs {scored} log-probs of each kind, "
                f"it has {len(self.base)} and {len(self.adapter)}"
            )
        return self


class Manifest(_Frozen):
    """`digest` is that of the version, `files` maps each file's name to its SHA-256 (hex).

    `probed_by` says whose numbers the probes are: the trainer's, or, for an adapter that was `imported`, those that an
    engine gave when it first loaded the adapter.
    """

    format: Literal[1]
    version: str
    base_digest: str
    digest: str
    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    target_modules: tuple[str, ...] = Field(min_length=1)
    job_id: str | None = None
    recipe: str | None = None
    files: dict[str, str]
    probes: tuple[Probe, ...] = Field(min_length=1, max_length=64)
    probed_by: Literal["trainer", "engine"] = "trainer"
    imported: Imported | None = None
