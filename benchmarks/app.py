"""The app of the benchmarks' workers: mailtasks' own, and beside it a task that does nothing."""

from mailtasks.celery import own_app

app = own_app()


@app.task(name="benchmarks.nothing", ignore_result=True)
def nothing(batch: str) -> None:
    """The measure of what Celery itself costs; takes an argument like a hint does."""
