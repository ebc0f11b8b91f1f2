from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from app.errors import ConfigurationError, StoreUnavailable
from app.store import migrations
from app.store.database import Database, Session
from app.store.models import TABLES
from app.store.store import Store
from tests.store import rows
from tests.store.turns import turn


def test_an_empty_database_is_refused_with_the_command_that_helps(database_url: str) -> None:
    store = Store(database_url, peppers=[b"p"])
    assert store.schema.version() == 0
    with pytest.raises(ConfigurationError) as caught:
        store.schema.check()
    assert "antiphon db upgrade" in caught.value.fix
    with pytest.raises(StoreUnavailable):
        turn(store)
    store.close()


def test_a_second_upgrade_has_nothing_to_do(database_url: str) -> None:
    store = Store(database_url, peppers=[b"p"])
    assert store.schema.upgrade() == list(range(1, len(migrations.STEPS) + 1))
    assert store.schema.upgrade() == []
    store.schema.check()
    store.close()


def test_two_upgrades_at_once_apply_each_step_once(database_url: str) -> None:
    together = threading.Barrier(4)

    def upgrade(_: int) -> list[int]:
        store = Store(database_url, peppers=[b"p"])
        together.wait()
        applied = store.schema.upgrade()
        store.schema.check()
        store.close()
        return applied

    with ThreadPoolExecutor(4) as threads:
        applied = list(threads.map(upgrade, range(4)))
    assert sorted(step for steps in applied for step in steps) == list(range(1, len(migrations.STEPS) + 1))


def test_a_step_that_broke_off_is_run_again(store: Store, database_url: str) -> None:
    response_id = turn(store)
    rows.execute(database_url, "DELETE FROM schema_version")
    assert store.schema.upgrade() == list(range(1, len(migrations.STEPS) + 1))
    assert store.responses.read("ada", response_id) is not None


def test_a_lease_whose_holder_died_is_taken_over(store: Store, database_url: str) -> None:
    rows.execute(database_url, "UPDATE migration_lease SET holder = 'dead', lease_until = 1")
    assert store.schema.upgrade() == []


def test_a_newer_database_is_refused_with_another_advice(store: Store, database_url: str) -> None:
    rows.execute(database_url, "INSERT INTO schema_version (version, applied_at) VALUES (999, 0)")
    with pytest.raises(ConfigurationError, match="999") as caught:
        store.schema.check()
    assert "newer" in caught.value.fix


def test_the_next_version_is_refused_by_a_first_start_and_by_none_that_runs_if_it_only_adds(
    store: Store, database_url: str
) -> None:
    above = len(migrations.STEPS)
    sql = "INSERT INTO schema_version (version, applied_at, additive) VALUES (?, 0, ?)"
    for version in (above + 1, above + 2):
        rows.execute(database_url, sql, (version, 1))
        with pytest.raises(ConfigurationError, match=str(version)):
            store.schema.check()
        store.schema.check_in_use()
    rows.execute(database_url, sql, (above + 3, 0))
    for check in (store.schema.check, store.schema.check_in_use):
        with pytest.raises(ConfigurationError, match=str(above + 3)):
            check()


def test_an_older_version_is_refused_by_both(store: Store, database_url: str) -> None:
    rows.execute(database_url, f"DELETE FROM schema_version WHERE version = {len(migrations.STEPS)}")
    for check in (store.schema.check, store.schema.check_in_use):
        with pytest.raises(ConfigurationError, match="needs"):
            check()


def test_an_upgrade_marks_the_steps_that_only_add(store: Store, database_url: str) -> None:
    rows.execute(database_url, "ALTER TABLE schema_version DROP COLUMN additive")
    rows.execute(database_url, f"DELETE FROM schema_version WHERE version IN (1, {len(migrations.STEPS)})")
    assert store.schema.upgrade() == [1, len(migrations.STEPS)]
    marked = dict(rows.execute(database_url, "SELECT version, additive FROM schema_version"))
    assert (marked[1], marked[len(migrations.STEPS)]) == (0, 1)


def test_the_models_are_what_the_migrations_made(store: Store, database_url: str) -> None:
    database = Database(database_url)
    for model in TABLES:
        query = model.select(*model._meta.sorted_fields)
        assert database.read(partial(_ask, query=query)) == []
        made = rows.execute(database_url, _COLUMNS[database.dialect.name], (model._meta.table_name,))
        assert {name for (name,) in made} == set(model._meta.columns)
    database.close()


def test_every_table_of_the_migrations_has_a_model(store: Store, database_url: str) -> None:
    """So that a copy, an erasure and the statistics know it."""
    database = Database(database_url)
    made = {name for (name,) in rows.execute(database_url, _TABLES[database.dialect.name])}
    database.close()
    assert made - {"schema_version", "migration_lease"} == {model._meta.table_name for model in TABLES}


def _ask(session: Session, query: Any) -> list[Any]:
    return list(session.execute(query))


_TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
    "mysql": "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
}
_COLUMNS = {
    "sqlite": "SELECT name FROM pragma_table_info(?)",
    "mysql": "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ?",
}
