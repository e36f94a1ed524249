"""What zsml raises when the input, not the program, is at fault."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A value the caller gave cannot be used; the message names it, what came and what is accepted.

    On the command line it ends the program with exit status 2.
    """


class CorruptImage(InputError):
    """An image file that cannot be decoded; ``path`` names it."""

    def __init__(self, path: str, reason: str):
        super().__init__(f"image {path!r} cannot be decoded ({reason}); replace or delete the file")
        self.path = path
        self.reason = reason

    def __reduce__(self):  # pickled across loader workers, where the default would lose `reason`
        return type(self), (self.path, self.reason)


class DamagedIndex(InputError):
    """An index whose embeddings are not the numbers that were written."""


def not_known(value: object, known: Iterable[str]) -> str:
    """What to say of a name that is not one of those known, with the nearest that is.

    >>> not_known("sakee", ["mathm", "sake"])
    "'sakee' is not known; choose from mathm, sake (did you mean 'sake'?)"
    """
    known = list(known)
    close = difflib.get_close_matches(str(value), known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{value!r} is not known; choose from {', '.join(known)}{hint}"
