"""The ledger in Redis: the truth about every recipient.

`keys.py` names every key, `records.py` what is in them, `lua/` holds one script a move, `scripts.py`
loads them, `ledger.py` is the Python side of the moves, `books.py` reads without moving anything.
"""
