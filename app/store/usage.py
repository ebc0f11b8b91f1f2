"""What was used, by day, token, model and channel. The sums are kept while responses are written (see `group`); nothing
here ever counts raw rows.
"""

from __future__ import annotations

from typing import Any

from app.store.database import Database
from app.store.group import COUNTERS
from app.store.models import Token, UsageDay


def since(database: Database, day: str) -> list[dict[str, Any]]:
    """Rows of `day` (YYYY-MM-DD, UTC) and later, oldest first, with the token's name and owner where it still is."""
    query = (
        UsageDay.select(
            UsageDay.day,
            UsageDay.token,
            Token.name.alias("token_name"),
            Token.owner,
            UsageDay.model,
            UsageDay.channel,
            *(getattr(UsageDay, counter) for counter in COUNTERS),
        )
        .left_outer_join(Token, on=(Token.pk == UsageDay.token))
        .where(UsageDay.day >= day)
        .order_by(UsageDay.day, UsageDay.token, UsageDay.model, UsageDay.channel)
        .dicts()
    )
    return database.read(lambda session: list(session.ask(query)))
