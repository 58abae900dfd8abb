"""Decisions, as pure functions: what a reply means, when to try again, whether the rate allows it.

Nothing here imports a socket, a clock, Redis or Celery; time and randomness are arguments.
"""
