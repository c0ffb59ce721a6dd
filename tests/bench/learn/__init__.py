"""`make learn`: what each recipe makes of a simulated user's taste, on the real engine. `__main__` says how."""
