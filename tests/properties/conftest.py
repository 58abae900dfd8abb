"""A machine that is busy with other tests makes an example slow, not wrong."""

from hypothesis import settings

settings.register_profile("mailtasks", deadline=None)
settings.load_profile("mailtasks")
