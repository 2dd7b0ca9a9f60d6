"""Small tables of plausible values, and the text of an event id. Constants only."""

from __future__ import annotations

COUNTRIES = tuple(
    b"DE FR US GB IN BR JP CN IT ES PL NL SE NO FI DK CH AT BE PT IE CZ GR TR MX AR CA AU NZ ZA KR SG".split()
)
PATHS = (
    b"/", b"/search", b"/cart", b"/checkout", b"/account", b"/account/orders", b"/help", b"/offers",
    b"/products/shoes", b"/products/books", b"/products/garden", b"/products/music",
    b"/blog", b"/stores", b"/returns", b"/products/kitchen",
)  # fmt: skip
STATUSES = (200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 301, 302, 304, 404, 404, 500)


def uuid_of(raw: bytes) -> bytes:
    """Canonical text of the version 4 UUID made from 16 random bytes."""
    text = raw.hex().encode()
    return b"%b-%b-4%b-8%b-%b" % (text[:8], text[8:12], text[13:16], text[17:20], text[20:])


CITIES = (
    b"Berlin", b"Lyon", b"Leeds", b"Porto", b"Turin", b"Ghent", b"Graz", b"Malmo",
    b"Bergen", b"Tampere", b"Aarhus", b"Brno", b"Gdansk", b"Cork", b"Patras", b"Basel",
)  # fmt: skip
PRODUCTS = (
    (b"SHOE", b"Running shoe"), (b"BOOK", b"Atlas of rivers"), (b"LAMP", b"Desk lamp"), (b"TENT", b"Tent for two"),
    (b"MUG", b"Stoneware mug"), (b"BIKE", b"City bicycle"), (b"PAN", b"Cast iron pan"), (b"COAT", b"Rain coat"),
    (b"SEED", b"Wild flower seed"), (b"CORD", b"Climbing rope"), (b"PEN", b"Fountain pen"), (b"RUG", b"Wool rug"),
    (b"SAW", b"Pruning saw"), (b"TOY", b"Wooden train"), (b"TEA", b"Green tea"), (b"HAT", b"Felt hat"),
)  # fmt: skip
SERVICES = (b"checkout", b"catalog", b"search", b"gateway", b"billing", b"mailer", b"stock", b"login")
LEVELS = (b"debug", b"info", b"info", b"info", b"info", b"info", b"warning", b"error")
MESSAGES = (
    b"request finished", b"cache miss, value fetched from the origin", b"connection to the pool was renewed",
    b"retry after a timeout of the upstream service", b"configuration was read again", b"queue drained",
    b"slow query, see the statement in the attributes", b"token refreshed for the session",
)  # fmt: skip
WORDS = (
    b"river", b"stone", b"valley", b"harbour", b"bridge", b"meadow", b"forest", b"island",
    b"summit", b"glacier", b"canyon", b"delta", b"lagoon", b"prairie", b"tundra", b"oasis",
)  # fmt: skip
