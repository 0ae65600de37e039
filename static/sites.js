// Where waste goes, which site nearby is open, and when the van comes. Drawn with DOM calls only, so that no text of an
// answer is ever read as markup.
"use strict";

const ITEMS_URL = "/api/v1/waste/items";
const GUIDE_URL = "/api/v1/waste/categories";
const SITES_URL = "/api/v1/sites/near";
const STOPS_URL = "/api/v1/recycling/stops/near";
const STREETS_URL = "/api/v1/places/divisions?level=street&limit=200";
const TYPING_PAUSE_MS = 250;
const POSITION_TIMEOUT_MS = 10000;
// Some 100 m: near enough to find a site, and nobody's front door.
const POSITION_DECIMALS = 3;
const FORMS = {
  "bin-room": ["垃圾箱房", "bin room"],
  "smart-bins": ["智能投放箱", "smart bins"],
  "timed-point": ["定时定点桶站", "bins at fixed hours"],
  station: ["回收站点", "collection point"],
};
const CATEGORIES = {
  recyclable: "可回收物",
  hazardous: "有害垃圾",
  kitchen: "厨余垃圾",
  residual: "其他垃圾",
};
const TIME = new Intl.DateTimeFormat("zh-CN", { hour: "2-digit", minute: "2-digit", hour12: false, timeZone: "Asia/Shanghai" });
const DATE = new Intl.DateTimeFormat("zh-CN", { month: "numeric", day: "numeric", weekday: "short", timeZone: "Asia/Shanghai" });

let guide = null;
let category = null;
let cursor = null;
let asked = 0; // the number of the latest search: an answer to an earlier one comes too late
let looked = 0; // likewise of the latest look for sites
let position = null;

function dot(code) {
  const mark = element("span", `dot ${code}`);
  mark.setAttribute("aria-hidden", "true");
  return mark;
}

const classOf = (code) => guide.classes.find((each) => each.code === code);
const categoryOf = (code) => guide.categories.find((each) => each.code === code);

function thing(item) {
  const its = categoryOf(item.category);
  const matched = item.matched === item.name_zh || item.matched === item.name_en ? [] : [element("span", "soft", `（${item.matched}）`)];
  const bin = element("span", `bin ${item.category}`, its.zh);
  const sub = classOf(item.class).zh;
  const node = element(
    "li", "",
    element("h3", "", bin, item.name_zh, ...matched, english(item.name_en)),
    element("p", "", `${sub === its.zh ? "" : `${sub} · `}${item.hint_zh}`, english(`${its.en}: ${item.hint_en}`)),
  );
  if (item.cities_differ) node.append(element("p", "differs", "各地规定不同，以本市为准。 ", english("Cities differ here.")));
  return node;
}

/** Shows the things that fit what was typed and the category chosen; `more` adds the next page. */
async function find(more = false) {
  const mine = ++asked;
  const typed = byId("query").value.trim();
  if (!typed && category === null) {
    byId("items").replaceChildren();
    byId("more-items").hidden = true;
    byId("found").textContent = `可查 ${guide.items} 种常见物品。 ${guide.items} everyday things.`;
    return;
  }
  const query = new URLSearchParams({ limit: "20", ...(typed ? { query: typed } : {}), ...(category ? { category } : {}), ...(more && cursor ? { cursor } : {}) });
  const page = await readJson(`${ITEMS_URL}?${query}`);
  if (mine !== asked) return;
  cursor = page.next_cursor;
  const nodes = page.items.map(thing);
  if (more) byId("items").append(...nodes);
  else byId("items").replaceChildren(...nodes);
  byId("more-items").hidden = cursor === null;
  byId("found").textContent = page.items.length || more ? "" : "没有找到。换个说法，或按类别查看。 Nothing found: try another word, or browse by category.";
}

function chip(each) {
  const button = element("button", "", dot(each.code), each.zh, english(each.bin_en ? `${each.en}, ${each.bin_en}` : each.en));
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => {
    category = category === each.code ? null : each.code;
    for (const other of byId("categories").children) other.setAttribute("aria-pressed", String(other === button && category !== null));
    find().catch(complain);
  });
  return button;
}

function distance(metres) {
  if (metres === null) return [];
  const text = metres < 1000 ? `约 ${metres} 米` : `约 ${(metres / 1000).toFixed(1)} 公里`;
  return [element("span", "away", text)];
}

const sameDay = (one, other) => DATE.format(one) === DATE.format(other);
/** An instant as people say it today: the time alone, or with its day. */
const when = (instant) => (sameDay(instant, new Date()) ? TIME.format(instant) : `${DATE.format(instant)} ${TIME.format(instant)}`);
/** The end of an opening; midnight is 24:00 of the day that ends. */
const until = (instant) => (TIME.format(instant) === "00:00" || TIME.format(instant) === "24:00" ? "24:00" : TIME.format(instant));

function standing(site) {
  if (site.open) {
    const whole = site.today.length === 1 && site.today[0] === "00:00-24:00";
    const text = whole ? "全天开放" : `开放中，至 ${until(new Date(site.closes_at))}`;
    return element("p", "", element("span", "state open", text), " ", english(whole ? "open all day" : `open until ${until(new Date(site.closes_at))}`));
  }
  if (site.opens_at === null) return element("p", "", element("span", "state closed", "近两周不开放"), " ", english("closed for two weeks"));
  const opens = when(new Date(site.opens_at));
  return element("p", "", element("span", "state closed", `现在关闭，${opens} 开放`), " ", english("closed now"));
}

const invented = (is) => (is ? [element("p", "differs", "示范点位，并非真实存在。 ", english("Invented for demonstration."))] : []);

function site(each) {
  const [zh, en] = FORMS[each.form];
  const takes = each.categories.map((code) => element("span", "", dot(code), CATEGORIES[code]));
  return element(
    "li", "",
    element("h3", "", each.name, ...distance(each.distance_m)),
    element("p", "soft", `${zh} · ${each.address} `, english(en)),
    standing(each),
    element("p", "mini", ...takes),
    ...invented(each.demonstration),
  );
}

function stop(each) {
  const start = new Date(each.starts_at);
  const running = start <= new Date();
  return element(
    "li", "",
    element("h3", "", each.name, ...distance(each.distance_m)),
    element("p", "", element("span", running ? "state open" : "state", running ? `正在回收，至 ${TIME.format(new Date(each.ends_at))}` : `${DATE.format(start)} ${TIME.format(start)}–${TIME.format(new Date(each.ends_at))}`), " ", english(running ? "there now" : "")),
    element("p", "soft", `${each.address} · `, each.left ? `可预约 ${each.left} 户 ` : "名额已满 ", english(each.left ? `${each.left} places left` : "full")),
    ...invented(each.demonstration),
  );
}

const nothing = (zh, en) => element("li", "soft", `${zh} `, english(en));

/** Looks for sites and stops around the position, or in the street chosen. */
async function look() {
  const mine = ++looked;
  const here = position === null ? { division: byId("street").value } : position;
  const place = new URLSearchParams(Object.entries(here).filter(([, value]) => value !== ""));
  const wanted = new URLSearchParams(`${place}&${byId("bringing").value}`);
  if (byId("open-only").checked) wanted.set("open", "true");
  const [sites, stops] = await Promise.all([readJson(`${SITES_URL}?${wanted}`), readJson(`${STOPS_URL}?${place}`)]);
  if (mine !== looked) return;
  byId("sites").replaceChildren(...(sites.items.length ? sites.items.map(site) : [nothing("没有符合的点位。", "No site fits.")]));
  byId("stops").replaceChildren(...(stops.items.length ? stops.items.map(stop) : [nothing("近两周没有流动回收。", "The van does not come within two weeks.")]));
}

function complain(error) {
  say(wordsOf(error), true);
}

function lookAgain() {
  say("");
  look().catch(complain);
}

function locate() {
  if (!navigator.geolocation) {
    say("浏览器不提供位置，请选择街道。 This browser tells no position: choose a street.", true);
    return;
  }
  say("正在获取位置… Asking for your position…");
  navigator.geolocation.getCurrentPosition(
    ({ coords }) => {
      position = { latitude: coords.latitude.toFixed(POSITION_DECIMALS), longitude: coords.longitude.toFixed(POSITION_DECIMALS) };
      byId("street").value = "";
      say("按你的位置排序（直线距离）。 Sorted by distance from you, in a straight line.");
      look().catch(complain);
    },
    () => say("没有得到位置，请选择街道。 No position: choose a street.", true),
    { timeout: POSITION_TIMEOUT_MS, maximumAge: 60000 },
  );
}

async function begin() {
  const [found, streets] = await Promise.all([readJson(GUIDE_URL).catch((error) => (error.status === 404 ? null : Promise.reject(error))), readJson(STREETS_URL)]);
  byId("street").append(...streets.items.map((each) => new Option(each.name, each.code)));
  await look();
  guide = found;
  if (guide === null) {
    byId("found").textContent = "本区尚未提供分类指引。 The district has no list of what goes where.";
    byId("query").disabled = true;
    return;
  }
  byId("categories").replaceChildren(...guide.categories.map(chip));
  const doubt = guide.confidence === "V" ? "" : `（可信程度 ${guide.confidence}，未经核对）`;
  byId("edition").append(`${guide.title_zh}，${dayText(guide.edition_on)} 起。${guide.source}${doubt}`, english(`${guide.title_en}, from ${guide.edition_on}; which thing belongs where has not been checked by the district: the city’s own rules hold.`));
  const typed = new URLSearchParams(location.search).get("query");
  if (typed) byId("query").value = typed.slice(0, 40);
  await find();
}

let pause = null;
byId("query").addEventListener("input", () => {
  clearTimeout(pause);
  pause = setTimeout(() => find().catch(complain), TYPING_PAUSE_MS);
});
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  find().catch(complain);
});
byId("more-items").addEventListener("click", () => find(true).catch(complain));
byId("locate").addEventListener("click", locate);
byId("street").addEventListener("change", () => {
  position = null;
  lookAgain();
});
for (const id of ["bringing", "open-only"]) byId(id).addEventListener("change", lookAgain);
byId("where").addEventListener("submit", (event) => event.preventDefault());

begin().catch(complain);
