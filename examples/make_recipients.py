"""Makes `recipients.csv`: 1,000 people who don't exist, always the same ones.

Some of their addresses begin with a word by which the catching server is told to misbehave (the table is
in `mailtasks/local/faults.py`): about one in ten is deferred once, refused for good or answered slowly.

    python examples/make_recipients.py > examples/recipients.csv
"""

import csv
import itertools
import sys
import unicodedata

FIRST = "Ann Bjørn Chloé Dmitri Elif Fatou Giulia Hiroshi Inês José Kofi Łucja Mei Noor Olu Priya Søren Zoë"
LAST = "Almeida Berg Costa Dubois Eriksen Fischer García Haddad Ito Jansen Kowalski Lindqvist Müller Novák"
CITIES = "Lisbon Bergen Lyon Ghent Izmir Dakar Turin Osaka Porto Bilbao Accra Kraków Utrecht Brno Zürich"
PRODUCTS = "teapot lantern bicycle notebook hammock kettle umbrella globe"
DOMAINS = ("example.com", "example.org", "example.net")
MISBEHAVIOUR = {"defer-once": 50, "defer-dot-once": 10, "slow": 20, "refuse": 15, "full": 5, "spam": 5}
ROWS = 1000


def words():
    """For each row the word that its address begins with, "" for most; spread evenly over the file."""
    ordered = [word for word, count in MISBEHAVIOUR.items() for _ in range(count)]
    every = ROWS // len(ordered)
    shuffled = [ordered[i * 37 % len(ordered)] for i in range(len(ordered))]  # 37 and 105 share no factor
    found = {every * (i + 1) - 1: word for i, word in enumerate(shuffled)}
    return [found.get(row, "") for row in range(ROWS)]


def plain(name):
    """The name in ASCII, for an address."""
    decomposed = unicodedata.normalize("NFKD", name.translate(str.maketrans("øłŁ", "olL")))
    return decomposed.encode("ascii", "ignore").decode().lower()


def rows():
    """All rows: each combination of names comes with a number, so that no address is there twice."""
    people = itertools.islice(itertools.cycle(itertools.product(FIRST.split(), LAST.split())), ROWS)
    cities, products = itertools.cycle(CITIES.split()), itertools.cycle(PRODUCTS.split())
    for number, ((first, last), word) in enumerate(zip(people, words(), strict=True), start=1):
        local = ".".join(filter(None, [word, plain(first), plain(last), str(number)]))
        address = f"{local}@{DOMAINS[number % len(DOMAINS)]}"
        yield address, f"{first} {last}", next(cities), next(products)


def main():
    """Write the file to stdout."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("email", "name", "city", "product"))
    writer.writerows(rows())


if __name__ == "__main__":
    main()
