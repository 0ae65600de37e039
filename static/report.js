// The public report of one release, drawn with DOM calls only, so that no text of the answer is ever read as markup.
"use strict";

const SUMMARY_URL = "/api/v1/report/summary";
const OPEN_DATA_URL = "/api/v1/open-data";
const SVG = "http://www.w3.org/2000/svg";
const WITHHELD_ZH = "少于 10 名居民，或其中一人占一半以上，或公布后可推算出这样的数，因此不公布";
const WITHHELD_EN = "withheld: fewer than 10 residents, or mostly one of them, or such a figure could be worked out from it";
const READINGS = { strict: ["严格口径", "strict"], "with-e-bike": ["含电动自行车", "with e-bikes"] };
const TABLES = {
  participation: ["居民参与", "participation"],
  "campaign-participants": ["各类活动参加居民", "residents in campaigns"],
  activity: ["绿色行为", "activity"],
  "recycling-materials": ["再生资源回收量", "recycling by material"],
  "carbon-savings": ["减排量", "carbon saved"],
};
const ANSWERS = {
  met: ["达到目标线", "It is met."],
  "not-met": ["未达到目标线", "It is not met."],
  "cannot-be-told-yet": ["目前无法判断", "It cannot be told yet."],
};

const count = new Intl.NumberFormat("zh-CN");
const percent = new Intl.NumberFormat("zh-CN", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const wholePercent = new Intl.NumberFormat("zh-CN", { style: "percent", maximumFractionDigits: 1 });
const oneDecimal = new Intl.NumberFormat("zh-CN", { maximumFractionDigits: 1 });

/** A new SVG element with attributes; a string child becomes text. */
function shape(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

/** The dash of a withheld figure, with its reason for pointer and screen reader. */
function withheld() {
  const dash = element("span", "withheld", "—");
  const reason = `${WITHHELD_ZH} / ${WITHHELD_EN}`;
  dash.title = reason;
  dash.setAttribute("role", "img");
  dash.setAttribute("aria-label", reason);
  return dash;
}

const figure = (value) => (value === null ? withheld() : count.format(value));

/** A bar filled to a share between 0 and 1. It repeats a printed number, so screen readers skip it. */
function bar(share, className) {
  const fill = element("span", "fill");
  fill.style.width = `${Math.min(Math.max(share, 0), 1) * 100}%`;
  const track = element("span", className, fill);
  track.setAttribute("aria-hidden", "true");
  return track;
}

// Whether the release shown tells who is registered: those of a month do, and no others.
let isMonthly = true;

/** What the release shown does not tell of any place. */
function untold() {
  const mark = element("span", "withheld", "·");
  mark.title = "登记居民只随月度发布 / monthly releases only";
  mark.setAttribute("role", "img");
  mark.setAttribute("aria-label", mark.title);
  return mark;
}

/** The participation rate of a place: withheld with its parts, and not defined where nobody is registered. */
function rateCell(place) {
  const cell = element("td");
  if (!isMonthly) {
    cell.append(untold());
  } else if (place.registered === null || place.participants === null) {
    cell.append(withheld());
  } else if (place.registered === 0) {
    const none = element("span", "", "无登记");
    none.title = "no registered residents";
    cell.append(none);
  } else {
    const rate = place.participants / place.registered;
    cell.append(element("span", "rate", bar(rate, "track in-table"), element("b", "", percent.format(rate))));
  }
  return cell;
}

function placeRow(className, header, place) {
  header.scope = "row";
  return element("tr", className, header, element("td", "", isMonthly ? figure(place.registered) : untold()), element("td", "", figure(place.participants)), rateCell(place));
}

/** One table body per street: its own row, and the rows of its communities, which start folded. */
function streetBody(street) {
  const size = element("small", "", `${street.communities.length} 个社区`);
  const button = element("button", "", element("span", "", street.street_name), size);
  button.type = "button";
  const rows = street.communities.map((community) => placeRow("community", element("th", "", community.name), community));
  const body = element("tbody", "", placeRow("street", element("th", "", button), street), ...rows);
  body.fold = (folded) => {
    button.setAttribute("aria-expanded", String(!folded));
    for (const row of rows) row.hidden = folded;
  };
  body.isFolded = () => button.getAttribute("aria-expanded") === "false";
  button.addEventListener("click", () => {
    body.fold(!body.isFolded());
    labelToggle();
  });
  body.fold(true);
  return body;
}

const streetBodies = () => Array.from(byId("participation").tBodies);
const anyFolded = () => streetBodies().some((body) => body.isFolded());

function labelToggle() {
  const [zh, en] = anyFolded() ? ["展开全部社区", "Expand all"] : ["收起全部社区", "Fold all"];
  byId("toggle-all").replaceChildren(`${zh} `, english(en));
}

function showParticipation(summary) {
  isMonthly = summary.release === null || summary.release.grain === "month";
  byId("monthly").hidden = isMonthly;
  for (const body of streetBodies()) body.remove();
  byId("participation").append(...summary.participation.map(streetBody));
  byId("population-note").textContent = summary.population_note || "";
  byId("population-note").hidden = !summary.population_note;
  byId("toggle-all").hidden = summary.participation.length === 0;
  labelToggle();
}

/** Recorded trips by mode. Shares are of the published counts only: a withheld count cannot be in their base. */
function showTrips(recorded) {
  const published = recorded.modes.filter((mode) => mode.trips !== null);
  const total = published.reduce((sum, mode) => sum + mode.trips, 0);
  const rows = recorded.modes.map((mode) => {
    if (mode.trips === null) return element("li", "", element("span", "", mode.name), element("span", "count", withheld()));
    const share = total === 0 ? 0 : mode.trips / total;
    const shareText = total === 0 ? "" : ` · ${percent.format(share)}`;
    return element("li", "", element("span", "", mode.name), element("span", "count", element("b", "", count.format(mode.trips)), ` 次${shareText}`), bar(share, "track"));
  });
  byId("modes").replaceChildren(...rows);
  byId("trips-label").textContent = recorded.label;
  byId("trips-note").textContent = recorded.note || "";
  byId("trips-note").hidden = !recorded.note;
  byId("modes-base").replaceChildren(
    `各方式占已公布的 ${count.format(total)} 次平台记录的比例。`,
    english(`Shares of the ${count.format(total)} published platform records.`),
  );
}

const pointText = (point) => `${point.about ? "约 " : ""}${wholePercent.format(point.share)}`;

/** The goal line between its points. A goal that is "about" is an open dot in a soft disc: it is no sharp limit. */
function goalChart(points) {
  const width = 400, height = 240, left = 44, right = 12, top = 30, bottom = 36, inset = 34;
  const years = points.map((point) => point.year);
  const firstYear = Math.min(...years), lastYear = Math.max(...years, firstYear + 1);
  const lowest = Math.min(0.6, ...points.map((point) => point.share - 0.05)), highest = Math.max(0.9, ...points.map((point) => point.share));
  const x = (year) => left + inset + ((year - firstYear) / (lastYear - firstYear)) * (width - left - right - 2 * inset);
  const y = (share) => top + ((highest - share) / (highest - lowest)) * (height - top - bottom);

  const words = points.map((point) => `${point.year} 年${pointText(point)}`).join("，");
  const chart = shape("svg", { class: "goal-chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `绿色出行比例目标：${words}。没有实测值。` });
  for (let tenth = Math.ceil(lowest * 10 - 1e-9); tenth <= highest * 10 + 1e-9; tenth += 1) {
    const level = y(tenth / 10);
    chart.append(shape("line", { class: "grid", x1: left, x2: width - right, y1: level, y2: level }));
    chart.append(shape("text", { class: "axis", x: left - 10, y: level + 4.5, "text-anchor": "end" }, `${tenth * 10}%`));
  }
  for (let year = firstYear; year <= lastYear; year += 1) {
    chart.append(shape("text", { class: "axis", x: x(year), y: height - 12, "text-anchor": "middle" }, String(year)));
  }
  chart.append(shape("polyline", { class: "goal", points: points.map((point) => `${x(point.year)},${y(point.share)}`).join(" ") }));
  for (const point of points) {
    if (point.about) chart.append(shape("circle", { class: "around", cx: x(point.year), cy: y(point.share), r: 15 }));
    chart.append(shape("circle", { class: point.about ? "dot-about" : "dot", cx: x(point.year), cy: y(point.share), r: 6 }));
    chart.append(shape("text", { class: "value", x: x(point.year), y: y(point.share) - 21, "text-anchor": "middle" }, pointText(point)));
  }
  return chart;
}

function showGoal(goal) {
  byId("goal").replaceChildren(...(goal.points.length ? [goalChart([...goal.points].sort((one, other) => one.year - other.year))] : []));
  byId("no-estimate").hidden = goal.estimate !== null;
  const [zh, en] = ANSWERS[goal.answer] || ANSWERS["cannot-be-told-yet"];
  byId("answer").replaceChildren(`${goal.year} 年是否达到目标：`, element("strong", "", zh), " ", english(`Is the goal of ${goal.year} met? ${en}`));
  const rows = goal.readings.map((each) => {
    const [name, inEnglish] = READINGS[each.reading] || [each.reading, each.reading];
    const text = `${name}：${percent.format(each.share)}（95% 区间 ${percent.format(each.low)} – ${percent.format(each.high)}） `;
    return element("li", "", text, english(inEnglish));
  });
  byId("readings").replaceChildren(...rows);
}

/** Grams in the largest unit that keeps the number readable; `of` names what is weighed, if it is not plain. */
function mass(grams, of) {
  const unit = (zh, latin) => `${zh} (${latin}${of})`;
  if (Math.abs(grams) >= 1e6) return `${oneDecimal.format(grams / 1e6)} ${unit("吨", "t")}`;
  if (Math.abs(grams) >= 1e3) return `${oneDecimal.format(grams / 1e3)} ${unit("千克", "kg")}`;
  return `${count.format(grams)} ${unit("克", "g")}`;
}

/** Named figures, or that there are none. */
function showFigures(id, rows) {
  const nodes = rows.map(([name, value]) => element("div", "", element("dt", "", name), element("dd", "", value)));
  byId(id).replaceChildren(...(nodes.length ? nodes : [element("div", "", element("dt", "", "本期没有记录。"))]));
}

function showSavings(savings) {
  showFigures("savings", savings.map((each) => [each.method, each.grams === null ? withheld() : mass(each.grams, " CO₂e")]));
}

function showMaterials(materials) {
  showFigures("materials", materials.map((each) => [`${each.name_zh} ${each.name_en}`, each.weight_g === null ? withheld() : mass(each.weight_g, "")]));
}

function link(address, text) {
  const node = element("a", "", text);
  node.href = address;
  return node;
}

/** The files of the release shown, by table. */
async function showFiles(release) {
  const told = await readJson(`${OPEN_DATA_URL}/${release.name}`);
  const tables = new Map();
  for (const file of told.files) tables.set(file.table, [...(tables.get(file.table) || []), file]);
  const rows = [...tables].map(([table, files]) => {
    const [zh, en] = TABLES[table] || [table, table];
    const links = files.flatMap((file) => [link(file.url, file.format.toUpperCase()), " "]);
    const hash = element("small", "hash", `SHA-256 ${files[0].sha256.slice(0, 12)}…`);
    hash.title = files.map((file) => `${file.format} ${file.sha256}`).join("\n");
    return element("li", "", `${zh} `, english(en), " ", ...links, hash);
  });
  byId("files").replaceChildren(...rows);
  const catalogue = await readJson(`${OPEN_DATA_URL}?limit=1`);
  byId("licence").textContent = `发布 Publisher: ${catalogue.publisher} · 许可 Licence: ${catalogue.licence}`;
}

const GRAINS = { month: ["月度", "Monthly"], quarter: ["季度", "Quarterly"], year: ["年度", "Yearly"] };

/** Offer the periods that have a release, the one shown chosen. */
function showPeriods(summary) {
  const shown = summary.release === null ? "" : summary.release.name.split(".")[0];
  const options = summary.periods.map((period) => {
    const option = element("option", "", period);
    option.value = period;
    option.selected = period === shown;
    return option;
  });
  select.replaceChildren(...options);
  form.hidden = options.length === 0;
}

function show(summary) {
  byId("district").textContent = summary.district.name;
  document.title = `${summary.district.name}碳普惠公众报告`;
  showPeriods(summary);
  for (const part of document.querySelectorAll(".of-release")) part.hidden = summary.release === null;
  showParticipation(summary);
  showTrips(summary.recorded_trips);
  showGoal(summary.goal);
  showSavings(summary.savings);
  showMaterials(summary.materials);
  byId("footnote").replaceChildren(`— ：${WITHHELD_ZH}。`, english(`—: ${WITHHELD_EN}.`));
  byId("report").hidden = false;
}

// Only the newest request may draw: a slow answer for earlier dates must not replace it.
let latest = 0;

async function load(period) {
  const mine = (latest += 1);
  const query = period ? `?${new URLSearchParams({ period })}` : "";
  byId("source").href = `${SUMMARY_URL}${query}`;
  say("正在读取… Loading…");
  try {
    const summary = await readJson(`${SUMMARY_URL}${query}`, { headers: { Accept: "application/json" } });
    if (mine !== latest) return;
    show(summary);
    if (summary.release === null) {
      say("尚未发布任何一期统计。No statistics have been released yet.");
      return;
    }
    const { name, from, to, grain, revision, frozen_at: frozenAt } = summary.release;
    const [zh, en] = GRAINS[grain];
    const corrected = revision > 1 ? "（更正版 corrected）" : "";
    say(`${name.split(".")[0]} ${zh}发布 ${en} release${corrected}：${from} 至 ${to}，定稿于 frozen ${MOMENT.format(new Date(frozenAt))}`);
    await showFiles(summary.release);
  } catch (error) {
    if (mine !== latest) return;
    console.error(error);
    byId("report").hidden = true;
    say(wordsOf(error), true);
  }
}

const isPeriod = (text) => /^\d{4}(-\d{2}|-Q[1-4])?$/.test(text || "");
const form = byId("period");
const select = form.elements.namedItem("period");

/** Take the period from the page's address, or the latest month, and load it. */
function loadFromAddress() {
  const period = new URLSearchParams(location.search).get("period");
  load(isPeriod(period) ? period : "");
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  history.pushState(null, "", `?${new URLSearchParams({ period: select.value })}`);
  load(select.value);
});
window.addEventListener("popstate", loadFromAddress);
byId("toggle-all").addEventListener("click", () => {
  const folded = !anyFolded();
  for (const body of streetBodies()) body.fold(folded);
  labelToggle();
});
loadFromAddress();
