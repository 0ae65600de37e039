"""The whole system: the application as it is served, on a database that nobody else touches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from district import District

from server.settings import Settings

ServeDistrict = Callable[..., Any]


# Half a minute or more each, the longest first: coming last, one of them would leave the other processes idle.
LONG = ("test_serve", "test_demo", "test_walks", "test_faults", "test_access", "test_fuzz", "test_campaign_races")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long modules, and keep the others as they were shuffled."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(scope="session")
def serve_district(
    base_settings: Settings, make_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> ServeDistrict:
    """A context manager that serves a fresh copy of the district; `settings` may name another database."""

    @contextmanager
    def serve(settings: Settings | None = None, **options: Any) -> Iterator[District]:
        if settings is None:
            url = make_database()
            settings = replace(base_settings, database_url=url, database_owner_url=url)
        district = District(settings, tmp_path_factory.mktemp("district"), **options)
        try:
            district.start()
            yield district
        finally:
            district.stop()
        log = district.log()
        secrets = [settings.secret_key, settings.wechat_secret, *district.tokens]
        assert not [secret[:12] for secret in secrets if secret in log], "a secret is in the log"

    return serve


@pytest.fixture(scope="module")
def quiet_district(
    base_settings: Settings, make_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[District]:
    """A district that is not served, for sessions of the test's own."""
    url = make_database()
    settings = replace(base_settings, database_url=url, database_owner_url=url)
    made = District(settings, tmp_path_factory.mktemp("races"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def district(serve_district: ServeDistrict) -> Iterator[District]:
    """One served district for the tests of a module."""
    with serve_district() as served:
        yield served
