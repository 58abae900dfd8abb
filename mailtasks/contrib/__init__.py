"""Frameworks that mailtasks fits into; each needs its extra, and nothing else here imports it."""
