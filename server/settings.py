"""Settings, read once from the environment; whatever is missing or bad is named, all of it at once."""

import base64
import binascii
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from flask import current_app

PLACES_DATA = Path(__file__).parent / "places" / "data"


class SettingsError(Exception):
    """The environment does not make a usable configuration; the message has one line for each fault."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration of one process. Secrets are left out of `repr`."""

    environment: Literal["production", "development"]
    database_url: str = field(repr=False)
    database_owner_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    secret_key: str = field(repr=False)
    data_key: bytes = field(repr=False)
    wechat_appid: str
    wechat_secret: str = field(repr=False)
    wechat_base_url: str
    data_folder: Path
    district_folder: Path
    files_url: str = field(repr=False)  # where evidence and exports lie: file:///… or s3://bucket/prefix
    host: str
    port: int
    web_workers: int
    database_pool_size: int
    log_level: str
    proxy_hops: int = 0
    rate_limits: bool = True

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read `environ` (the process's own by default). Raises SettingsError naming every variable at fault."""
        return _Reader(os.environ if environ is None else environ).settings()

    @classmethod
    def for_description(cls) -> "Settings":
        """Settings that reach nothing: enough to compose the application and write its OpenAPI document."""
        return cls(
            environment="development",
            database_url="postgresql://nowhere.invalid/none",
            database_owner_url="postgresql://nowhere.invalid/none",
            redis_url="redis://nowhere.invalid",
            secret_key="-" * 32,
            data_key=bytes(32),
            wechat_appid="wx-description",
            wechat_secret="-" * 8,
            wechat_base_url="https://nowhere.invalid",
            data_folder=Path("var"),
            district_folder=PLACES_DATA,
            files_url="memory://",
            host="127.0.0.1",
            port=0,
            web_workers=1,
            database_pool_size=1,
            log_level="WARNING",
        )

    @property
    def is_production(self) -> bool:
        """Whether residents' real data may be here."""
        return self.environment == "production"

    @property
    def rehearsal_file(self) -> Path | None:
        """Where `flask clock forward` notes by how much the clock is ahead; None in production."""
        return None if self.is_production else self.data_folder / "clock-ahead"


def settings() -> Settings:
    """The running application's settings."""
    found: Settings = current_app.extensions["tanpuhui_settings"]
    return found


class _Reader:
    """Collects faults, so that an operator mends them in one go and not one start at a time."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.faults: list[str] = []

    def settings(self) -> Settings:
        environment = self.choice("TANPUHUI_ENV", "production", ("production", "development"))
        database_url = self.url("DATABASE_URL", ("postgresql", "postgres"))
        district = self.text("TANPUHUI_DISTRICT", "nankai", r"[a-z0-9][a-z0-9_-]{0,40}")
        data_folder = Path(self.environ.get("TANPUHUI_DATA") or "var").resolve()
        made = Settings(
            environment="development" if environment == "development" else "production",
            database_url=database_url,
            database_owner_url=self.url("DATABASE_OWNER_URL", ("postgresql", "postgres"), database_url),
            redis_url=self.url("REDIS_URL", ("redis", "rediss", "unix")),
            secret_key=self.secret_key(),
            data_key=self.data_key(),
            wechat_appid=self.text("WECHAT_APPID", None, r"wx[A-Za-z0-9-]{4,40}"),
            wechat_secret=self.text("WECHAT_SECRET", None, r"\S{8,128}"),
            wechat_base_url=self.url("WECHAT_BASE_URL", ("https", "http"), "https://api.weixin.qq.com"),
            data_folder=data_folder,
            district_folder=self.folder("TANPUHUI_DISTRICT_DATA", PLACES_DATA) / district,
            files_url=self.url("FILES_URL", ("file", "s3"), (data_folder / "files").as_uri()),
            host=self.environ.get("HOST") or "127.0.0.1",
            port=self.number("PORT", 8000, 0, 65535),
            web_workers=self.number("WEB_WORKERS", 2, 1, 64),
            database_pool_size=self.number("DATABASE_POOL_SIZE", 8, 1, 200),
            proxy_hops=self.number("PROXY_HOPS", 0, 0, 5),
            log_level=self.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
        )
        if made.is_production and urlsplit(made.wechat_base_url).scheme != "https":
            # The stand-in speaks plain http on loopback; a real district must never be pointed at it.
            self.faults.append("WECHAT_BASE_URL: must be https in production")
        if not made.district_folder.is_dir():
            self.faults.append(f"TANPUHUI_DISTRICT: no data folder named {district!r}")
        if self.faults:
            raise SettingsError("Cannot start:\n" + "\n".join(f"  {fault}" for fault in self.faults))
        return made

    def text(self, name: str, default: str | None, pattern: str) -> str:
        value = self.environ.get(name) or default
        if value is None:
            self.faults.append(f"{name}: missing")
            return ""
        if not re.fullmatch(pattern, value):
            self.faults.append(f"{name}: does not look right (expected {pattern})")
        return value

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.environ.get(name) or default
        if value not in allowed:
            self.faults.append(f"{name}: must be one of {', '.join(allowed)}")
        return value

    def number(self, name: str, default: int, lowest: int, highest: int) -> int:
        value = self.environ.get(name) or str(default)
        if not value.isascii() or not value.isdigit() or not lowest <= int(value) <= highest:
            self.faults.append(f"{name}: must be a whole number from {lowest} to {highest}")
            return default
        return int(value)

    def url(self, name: str, schemes: tuple[str, ...], default: str | None = None) -> str:
        value = self.environ.get(name) or default
        if value is None:
            self.faults.append(f"{name}: missing")
            return ""
        if value and urlsplit(value).scheme not in schemes:
            self.faults.append(f"{name}: must be a URL that begins with {' or '.join(s + '://' for s in schemes)}")
        return value

    def folder(self, name: str, default: Path) -> Path:
        path = Path(self.environ.get(name) or default)
        if not path.is_dir():
            self.faults.append(f"{name}: no such folder")
        return path

    def secret_key(self) -> str:
        value = self.environ.get("TANPUHUI_SECRET_KEY", "")
        if len(value.encode()) < 32:
            self.faults.append("TANPUHUI_SECRET_KEY: must be at least 32 bytes")
        return value

    def data_key(self) -> bytes:
        try:
            key = base64.b64decode(self.environ.get("TANPUHUI_DATA_KEY", ""), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != 32:
            self.faults.append("TANPUHUI_DATA_KEY: must be 32 bytes in base64")
        return key
