"""Reading a wallet, against views that do nothing: as a signed-in person, as nobody, and in Flask alone."""

from dataclasses import dataclass, field

from bench.figures import percentile_ms, ratios, spread
from bench.load import Run, Server, drive, request
from bench.stage import RESIDENTS, Stage

CLIENTS = 8
# As many people as keep each one below the everyday limit of 600 requests a minute.
READERS = 400


@dataclass(slots=True)
class Result:
    """Answers per second, round by round."""

    wallet: list[float] = field(default_factory=list)
    signed_in: list[float] = field(default_factory=list)
    nobody: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    def words(self) -> list[str]:
        """The result in words."""
        p50, p99 = (percentile_ms(self.latencies_s, share) for share in (0.5, 0.99))
        return [
            f"GET /me/wallet: {spread(self.wallet)} /s, 中位 median {p50:.1f} ms, p99 {p99:.1f} ms",
            self._against("空视图, 带令牌与限速 empty view with token and limit", self.signed_in),
            self._against("空视图, 无令牌不限速 empty view without either (logs, metrics)", self.nobody),
            self._against("裸 Flask 空视图 empty view of bare Flask", self.bare),
        ]

    def _against(self, name: str, other: list[float]) -> str:
        return f"{name}: {spread(other)} /s; 比值 ratio {spread(ratios(self.wallet, other), 2)}"


def measure(on: Stage, rounds: int, seconds: float) -> Result:
    """Rounds of all four in turn."""
    result = Result()
    tokens = [on.token(number) for number in range(0, RESIDENTS, RESIDENTS // READERS)]

    as_people = [{"Authorization": f"Bearer {token}"} for token in tokens]
    as_nobody: list[dict[str, str]] = [{}] * READERS

    def run(server: Server, path: str, headers: list[dict[str, str]], length: float) -> Run:
        requests = [request("GET", path, each) for each in headers]
        # Each client goes round through readers of its own.
        return drive(server, [requests[number::CLIENTS] * 200 for number in range(CLIENTS)], seconds=length)

    for turn in range(-1, rounds):
        length = seconds if turn >= 0 else 0.5
        wallet = run(on.server, "/api/v1/me/wallet", as_people, length)
        others = [
            run(on.server, "/empty", as_people, length),
            run(on.server, "/empty-unlimited", as_nobody, length),
            run(on.bare, "/empty", as_nobody, length),
        ]
        if turn < 0:
            continue
        result.wallet.append(wallet.per_second)
        result.latencies_s += wallet.latencies_s
        for figures, each in zip((result.signed_in, result.nobody, result.bare), others, strict=True):
            figures.append(each.per_second)
    return result
