"""People who are to be mailed, read from a file, standard input or Python: a stream of rows.

In the order in which a file travels: `octets` opens it and takes its compression off, `text` makes lines of
it, `table` (CSV) or `objects` (JSON Lines, rows from Python) makes people of these, and `once` lets each
address pass once::

    with read("people.csv.gz") as people, Once() as once:
        for row in once.of(people):
            ...  # a Person, or a Rejected with its line and reason
"""

from mailtasks.people.once import Once
from mailtasks.people.reading import People, Source, read
from mailtasks.people.row import Person, Reason, Rejected

__all__ = ["Once", "People", "Person", "Reason", "Rejected", "Source", "read"]
