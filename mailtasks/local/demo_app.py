"""The Celery app of the demo's workers: ours, but a retry comes after a second, since somebody watches."""

from celery import Celery

from mailtasks.celery import install
from mailtasks.publish import DELIVER, configuration
from mailtasks.settings import Settings

settings = Settings.load()
app = Celery("mailtasks", set_as_current=False)
app.conf.task_annotations = {DELIVER: {"retry_backoff": 1, "retry_backoff_max": 10}}
app.conf.worker_send_task_events = True  # for Flower
app.add_defaults(configuration(settings))
install(app, settings)
