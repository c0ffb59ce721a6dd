"""The `engine` section: where vLLM listens, and what its launcher starts it with."""

from pydantic import BaseModel, ConfigDict, Field


class EngineSettings(BaseModel):
    """Environment `BURNISH_ENGINE_<NAME>` over `[engine]` of burnish.toml; a misspelt name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(
        default="127.0.0.1", description="Address to listen on. vLLM checks no keys: keep it on loopback."
    )
    port: int = Field(default=8001, ge=1, le=65535)
    url: str | None = Field(
        default=None, description="Where others find the engine; made from the port when not given."
    )
    urls: str | None = Field(
        default=None,
        description="Where several engines are found that answer as one, with commas between; each is started by "
        "itself, on the same model, and sees the same adapters folder.",
    )
    max_model_len: int | None = Field(
        default=None, ge=128, description="Tokens of prompt and answer together; 2048 on the CPU, else the model's own."
    )
    max_step_tokens: int | None = Field(
        default=None,
        ge=64,
        description="Tokens computed in one step, prompts included: a long prompt holds up running answers by so many. "
        "512 on the CPU, which computes some 400 a second; else vLLM's choice.",
    )
    max_loras: int = Field(
        default=6, ge=2, description="Adapters in one batch: live, canary, draining and drafts at once, and one more."
    )
    max_cpu_loras: int = Field(
        default=12, ge=2, description="Adapters kept in memory; one more pushes out the one unused for longest."
    )
    max_lora_rank: int = Field(default=64, ge=1, description="1, 8, 16, 32, 64, 128, 256, 320 or 512, as vLLM allows.")
    target_modules: str = Field(
        default="q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
        description="Modules that adapters may change, with commas between; empty for all that vLLM can.",
    )
    max_requests: int = Field(
        default=256, ge=1, description="Requests waiting and running; more are answered 503 at once."
    )
    kv_cache_gib: int = Field(default=1, ge=1, description="Memory for the KV cache (CPU only).")
    cores: str = Field(
        default="auto",
        description="Cores the model runs on, such as 0-3 (CPU only); auto: all but one, which others may use.",
    )
    shutdown_timeout_s: int = Field(default=10, ge=0, description="How long running answers may take to end at a stop.")
    tool_parser: str = Field(
        default="hermes",
        description="How the model writes tool calls, as vLLM names its parsers; empty: tools are refused.",
    )
    extra_args: str = Field(default="", description="More arguments for vLLM, as on a command line.")
