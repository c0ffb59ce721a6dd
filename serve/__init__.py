"""The gateway: OpenAI's API over a running vLLM, the hot swap of policies, and the launch of the engine itself."""
