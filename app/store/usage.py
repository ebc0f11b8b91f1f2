"""Usage by day, token, model and channel. The sums grow with each written response (see `grouped_writes`), so that no
query counts raw rows.
"""

from __future__ import annotations

from typing import Any

from app.store.database import Database
from app.store.grouped_writes import COUNTERS
from app.store.models import Token, UsageDay


class UsageSums:
    def __init__(self, database: Database) -> None:
        self._database = database

    def since(self, day: str) -> list[dict[str, Any]]:
        """Rows of `day` (YYYY-MM-DD, UTC) and later, oldest first, with the name and owner of each known token."""
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
        return self._database.read(lambda session: list(session.execute(query)))
