"""The gateway: OpenAI's API, routing to a policy version, hot swap, keys; and the launcher of vLLM."""
