"""Answers of a version, sampled from the running engine through the gateway."""
