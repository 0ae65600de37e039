"""`make demo`: the main job on real records, over HTTP only; then all of it a second time, which must pay nothing."""

import contextlib
import http.client
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from bench import records
from bench.records import Record
from bench.running import Client, DemoError, Service, end_tidily_when_terminated, service, verify_ledger
from points.earning.claims import REASON_TEXTS, Reason
from points.partners.signature import sign
from server.clock import business_day, now

API = "/api/v1"
# Two for each of the 171 communities. Signing in is limited to 60 a minute from one address, and so it should be;
# every phone has an address of its own here, as in life, out of the 16 million of the loopback network.
RESIDENTS = 342
# Where the loopback network has one address only (not Linux), or the service is on another machine.
RESIDENTS_OF_ONE_ADDRESS = 50
PARTNERS = ("metro-sample", "bus-sample", "bins-sample")
CLIENTS = 8
BATCH_LINES = (2000, 1500)  # of the first and of the second pass
SEED = 20261122
TEXTS_OF = {reason.value for reason in REASON_TEXTS}


@dataclass(slots=True)
class Person:
    """A resident of the demonstration."""

    name: str
    community: str
    client: Client


@dataclass(slots=True)
class Tally:
    """What a pass brought, as the service answered."""

    lines: int = 0
    batches: int = 0
    points: int = 0
    seconds: float = 0.0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    print(f"· {title} …", flush=True)
    began = time.perf_counter()
    yield
    print(f"  {time.perf_counter() - began:.1f} s", flush=True)


def main() -> int:
    """Run the demonstration; 1 when the second pass paid anything or the ledger is wrong."""
    end_tidily_when_terminated()
    try:
        with service() as running:
            return demonstrate(running)
    except (DemoError, OSError, http.client.HTTPException) as error:
        print(f"演示中止 · stopped: {error}", file=sys.stderr)
        return 1


def demonstrate(running: Service) -> int:
    """All steps against a running service; the exit status."""
    keys = {code: running.credentials()["partners"][code]["key"].encode() for code in PARTNERS}
    today = business_day(now())
    print(f"服务 service: {running.url}")
    people = settle(running)
    members = [person.name for person in people]
    drops = records.bin_drops(members, today)
    rides, unmeasured = records.rides(members, today)
    explain(len(drops), len(rides), unmeasured, today)
    events = drops + rides
    before = balances(people)
    with step(f"第一遍: 按原顺序推送 {len(events):,} 条签名事件 · first pass, in the order of the files"):
        first = push(running, keys, events, BATCH_LINES[0])
    report(first)
    after_first = balances(people)
    with step("第二遍: 打乱顺序、另行分批 · second pass: everything again, shuffled, in other batches"):
        second = push(running, keys, shuffled(events), BATCH_LINES[1])
    report(second)
    after_second = balances(people)
    for person in people:
        person.client.close()
    with step("区级报告 · the district's report"):
        show_report(running, today)
    faults = judge(first, second, after_first - before, after_second - after_first)
    faults += check_ledger(running)
    for fault in faults:
        print(f"错误 · WRONG: {fault}")
    return 1 if faults else 0


def settle(running: Service) -> list[Person]:
    """Sign the residents in through the WeChat stand-in, give them homes and bind the partners."""
    codes = communities(running)
    addresses = phone_addresses(running)
    count = RESIDENTS if addresses else RESIDENTS_OF_ONE_ADDRESS
    chooser = random.Random(SEED)
    # One for every community, the rest as chance will have it, so that the report's table has an order.
    homes = [codes[n] if n < len(codes) else chooser.choice(codes) for n in range(count)]
    wechat = running.wechat()

    def one(number: int) -> Person:
        address = f"127.7.{number // 250}.{number % 250 + 1}" if addresses else None
        client = Client(running.host, running.port, address=address)
        person = Person(f"demo-{number + 1:03}", homes[number], client)
        sign_in(person, wechat)
        return person

    print("· 居民登录、选社区、授权合作方 · residents sign in, choose a community, bind the partners …", flush=True)
    began = time.perf_counter()
    people = []
    with ThreadPoolExecutor(CLIENTS) as pool:
        for person in pool.map(one, range(count)):
            people.append(person)
            if len(people) % 100 == 0:
                print(f"  {len(people)}/{count}", flush=True)
    places = len(set(homes))
    print(f"  {count} 人, {places} 个社区 · residents in {places} communities; {time.perf_counter() - began:.1f} s")
    if not addresses:
        print(
            "  本机只有一个回环地址, 登录限速每分钟60次, 故人数较少 · one address, 60 sign-ins a minute: fewer people"
        )
    return people


def sign_in(person: Person, wechat: tuple[str, int]) -> None:
    """What a mini-program does on its first start. A second time it finds everything as it was."""
    phone = Client(*wechat)
    code = phone.call("POST", "/phone/login", {"user": person.name})["code"]
    phone.close()
    tokens = person.client.call("POST", f"{API}/sign-in/wechat", {"code": code, "accept_terms": True})
    person.client.authorise(tokens["access_token"])
    person.client.call("PATCH", f"{API}/me", {"community_code": person.community})
    for partner in PARTNERS:
        body = {"member_id": person.name, "consent": True}
        person.client.call("PUT", f"{API}/me/partners/{partner}", body, accept=(http.HTTPStatus.CONFLICT,))


def communities(running: Service) -> list[str]:
    """The official codes of all communities."""
    client, cursor, codes = Client(running.host, running.port), "", []
    while True:
        page = client.call("GET", f"{API}/places/divisions?level=community&limit=200{cursor}")
        codes += [item["code"] for item in page["items"]]
        if page["next_cursor"] is None:
            client.close()
            return codes
        cursor = f"&cursor={page['next_cursor']}"


def phone_addresses(running: Service) -> bool:
    """Whether this machine can call from many addresses of the loopback network."""
    client = Client(running.host, running.port, address="127.7.0.1")
    try:
        client.call("GET", "/healthz")
    except (OSError, DemoError):
        return False
    finally:
        client.close()
    return True


def explain(drops: int, rides: int, unmeasured: int, today: date) -> None:
    """Say what is real and what is not."""
    window = f"{today - timedelta(days=7)} – {today - timedelta(days=1)}"
    for line in (
        f"数据 data: {drops:,} 次真实智能箱清运 bin emptyings (Edinburgh 2016, © City of Edinburgh Council, OGL v3);",
        f"  {rides} 段真实地铁、公交、有轨电车行程 metro, bus and tram legs (Aalto University TrafficSense, CC BY 4.0)",
        "真实: 箱点、顺序、星期、时刻、行程先后与距离 · real: sites, order, weekday, time of day, legs and distances",
        f"假设: 日期移到最近七天的同一星期 {window} · assumed: days moved to the same weekday of these seven",
        "  投放人由事件号散列决定, Mixed 记为其他垃圾 · who dropped is a hash of the event's id; Mixed is residual",
        "  重量是体积×0.07的估计值, 超过30千克的不发送 · weights are estimates (0.07 × volume), not sent above 30 kg",
        f"  有轨电车记作公交; {unmeasured} 段无可用定位, 未发送 · a tram is a bus here; legs without a fix stay out",
    ):
        print(f"  {line}")


def push(running: Service, keys: dict[str, bytes], events: Sequence[Record], batch_lines: int) -> Tally:
    """Push the events as signed batches, each partner's in their order; the sum of the answers."""
    tally, began = Tally(), time.perf_counter()
    # A batch id of its own for this very run: a known batch would be answered from memory and prove nothing.
    run = f"demo-{time.time_ns():x}"
    client = Client(running.host, running.port)
    for partner in sorted({event.partner for event in events}):
        lines = [event.line for event in events if event.partner == partner]
        for start in range(0, len(lines), batch_lines):
            body = b"\n".join(lines[start : start + batch_lines]) + b"\n"
            timestamp = str(int(time.time()))
            tally.batches += 1
            headers = {
                "Content-Type": "application/x-ndjson",
                "X-Tanpuhui-Timestamp": timestamp,
                "X-Tanpuhui-Batch": f"{run}-{tally.batches}",
                "X-Tanpuhui-Signature": sign(keys[partner], timestamp, body),
            }
            answer = client.send("POST", f"{API}/partners/{partner}/events", body, headers)
            tally.lines += answer["lines"]
            tally.points += answer["points"]
            tally.outcomes.update((line["outcome"], line.get("reason") or "") for line in answer["outcomes"])
    client.close()
    tally.seconds = time.perf_counter() - began
    return tally


def shuffled(events: Sequence[Record]) -> list[Record]:
    """The same events in another order, the same at every run."""
    mixed = list(events)
    random.Random(SEED).shuffle(mixed)
    return mixed


def report(tally: Tally) -> None:
    """Print outcomes by reason."""
    rate = tally.lines / tally.seconds
    print(f"  {tally.lines:,} 条 events, {tally.batches} 批 batches, {tally.seconds:.2f} s ({rate:,.0f}/s)")
    for (outcome, reason), count in sorted(tally.outcomes.items(), key=lambda each: -each[1]):
        why = f"{reason} {' · '.join(REASON_TEXTS[Reason(reason)])}" if reason in TEXTS_OF else reason
        print(f"  {count:>7,}  {outcome:<10} {why}".rstrip())
    print(f"  积分 points: {tally.points:,}")


def balances(people: Sequence[Person]) -> int:
    """The sum of the residents' balances, each read from the wallet as its owner."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        wallets = pool.map(lambda person: person.client.call("GET", f"{API}/me/wallet"), people)
        return sum(wallet["balance_points"] for wallet in wallets)


def show_report(running: Service, today: date) -> None:
    """Print what the district office reads of the last seven days."""
    client = Client(running.host, running.port)
    accounts = running.credentials()["staff"].items()
    name, account = next((name, account) for name, account in accounts if account["role"] == "district")
    tokens = client.call("POST", f"{API}/sign-in/staff", {"name": name, "password": account["password"]})
    client.authorise(tokens["access_token"])
    days = f"from={today - timedelta(days=7)}&to={today}"
    found: dict[str, Any] = client.call("GET", f"{API}/report/participation?{days}")
    client.close()
    print(f"  {found['from']} – {found['to']}")
    print(f"  参与 participants {found['participants']:,} / 注册 registered {found['registered']:,}")
    counted = [each for street in found["participation"] for each in street["communities"]]
    counted.sort(key=lambda each: (-each["participants"], each["code"]))
    print("  参与人数最多的社区 · communities with most participants:")
    for each in counted[:5]:
        print(f"  {each['participants']:>7}  {each['code']} {each['name']}")
    trips = ", ".join(f"{mode['name']} {mode['trips']}" for mode in found["recorded_trips"]["modes"] if mode["trips"])
    print(f"  {found['recorded_trips']['label']} recorded trips: {trips or '—'}")
    print("  减排量, 各方法学分列, 不相加 · grams of CO2e saved, by method, never added up:")
    for saving in found["savings"]:
        print(f"  {saving['grams']:>9,} g  {saving['method']}")


def judge(first: Tally, second: Tally, credited_first: int, credited_second: int) -> list[str]:
    """What must hold: each act is paid once, and wallets say what the answers said."""
    faults = []
    if credited_first != first.points:
        faults.append(f"answers said {first.points} points, the wallets gained {credited_first}")
    if second.points or credited_second or any(outcome == "awarded" for outcome, _ in second.outcomes):
        faults.append(f"the second pass paid {second.points} points, the wallets gained {credited_second}")
    if second.lines != first.lines:
        faults.append("the passes differ in length")
    if not faults:
        print(f"✓ 第二遍积分为零, 钱包与应答一致 · the second pass paid nothing; wallets gained {credited_first:,}")
    if not first.points and not faults:
        print(
            "✓ 今天已在此数据上演示过, 第一遍也没有重复计分 · this data folder has seen today's demonstration: "
            "the first pass paid nothing either"
        )
    return faults


def check_ledger(running: Service) -> list[str]:
    """Prove the ledger, if its database can be reached from here."""
    print("· 账本核对 · flask ledger verify", flush=True)
    status = verify_ledger(running)
    if status is None:
        print(
            "  无法从这里访问该服务的数据库, 请在服务所在机器上运行 · its database is not within reach; run there:\n"
            "  flask --app wsgi ledger verify"
        )
        return []
    return [f"ledger verify ended with {status}"] if status else []


if __name__ == "__main__":
    sys.exit(main())
