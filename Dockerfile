# One image for everything: `mailtasks worker`, `mailtasks flower`, `mailtasks outbox run`, `mailtasks send …`.
FROM python:3.13-slim

WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY mailtasks mailtasks
COPY examples/recipients.csv examples/
# hatchling builds the wheel; constraints.txt holds the versions that the tests ran with.
# psycopg is for an outbox in PostgreSQL; another database needs a driver of its own here.
RUN pip install --no-cache-dir --constraint constraints.txt ".[cli,flower,sqlalchemy,zstd,css]" "psycopg[binary]"

# Nothing is written outside Redis, so nothing needs root.
RUN useradd --system --create-home mailtasks
USER mailtasks
WORKDIR /home/mailtasks

ENTRYPOINT ["mailtasks"]
CMD ["worker"]
