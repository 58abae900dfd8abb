"""The outbox, whichever way its table is reached: what a row holds, and how rows get into the ledger.

What is decided is here, and no SQL. `mailtasks.sql` has the table and the statements for SQLAlchemy,
`mailtasks.contrib.django` for Django's ORM; both are a `mailtasks.outbox.store.RowStore`.
"""
