"""Adapters as immutable folders that the engine loads."""
