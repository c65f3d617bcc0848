"""How a check says what differs."""


class Difference(Exception):
    """What was expected and what was found."""


def shown(value):
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"


def equal(what, found, wanted):
    if found != wanted:
        raise Difference(f"{what}: found {shown(found)}, expected {shown(wanted)}")


def true(what, holds):
    if not holds:
        raise Difference(what)
