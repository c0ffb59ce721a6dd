"""Adapter directories: what may be loaded, and how one comes in from outside."""
