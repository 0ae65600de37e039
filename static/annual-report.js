// A year's published assessment: one request for the list, one for the report; pictures are files of the report.
"use strict";

const REPORTS_URL = "/api/v1/annual-reports";
const YEARS_SHOWN_MAX = 100;

const OUTCOMES = {
  met: ["已达到", "met"],
  "not-met": ["未达到", "not met"],
  "cannot-be-told-yet": ["尚不能判定", "cannot be told yet"],
  "no-data": ["暂无数据", "no data"],
  followed: ["跟踪指标", "followed, no target"],
};
const UNITS_EN = { "%": "%", 次: "times", 千克: "kg", 人: "residents", 户: "households", 个: "", 千克二氧化碳当量: "kg CO2e" };

const plain = new Intl.NumberFormat("zh-CN", { maximumFractionDigits: 1 });
const quantity = (value, unit) => `${plain.format(value)}${unit === "%" ? "" : " "}${unit}`;

function outcome(status) {
  const [chinese, inEnglish] = OUTCOMES[status];
  return element("span", `outcome ${status}`, `${chinese} `, english(inEnglish));
}

function targetLine(target, unit) {
  if (target === null) return element("p", "target", "方案未设目标值。 ", english("The plan names no figure."));
  const about = target.about ? "左右" : unit === "%" && target.value >= 100 ? "" : "以上";
  return element(
    "p",
    "target",
    `目标：${target.text_zh}；本年度对照值 ${quantity(target.value, unit)}${about}（${target.year} 年）。来源：${target.source}，可信度 ${target.confidence}。 `,
    english(`Target: ${target.about ? "about " : ""}${plain.format(target.value)} ${UNITS_EN[unit] ?? unit}, ${target.year}.`),
  );
}

/** A figure with its source, unless the one before it has the same. */
function valueItem(figure, unit, before) {
  const value = figure.value === null
    ? element("span", "", figure.withheld ? "依披露控制规则不公布 " : "暂无数据 ", english(figure.withheld ? "withheld" : "no data"))
    : element("b", "", quantity(figure.value, unit));
  const item = element("li", "");
  if (figure.label_zh) item.append(element("span", "", `${figure.label_zh} `, english(figure.label_en)));
  item.append(value);
  if (figure.low !== null && figure.high !== null) {
    item.append(element("span", "range", `95% 区间 ${plain.format(figure.low)}–${quantity(figure.high, unit)}`));
  }
  if (figure.detail_zh) item.append(element("span", "", `${figure.detail_zh} `, english(figure.detail_en)));
  const source = (of) => `${of.source_zh}；截至 ${of.as_of}；可信度 ${of.confidence}`;
  if (!before || source(before) !== source(figure)) item.append(element("small", "", source(figure), english(figure.source_en)));
  return item;
}

function indicatorBlock(indicator) {
  const block = element(
    "article",
    "indicator",
    element("header", "", element("h3", "", `${indicator.title_zh} `, english(indicator.title_en)), outcome(indicator.status)),
    targetLine(indicator.target, indicator.unit),
  );
  if (indicator.figures.length) {
    block.append(element("ul", "values", ...indicator.figures.map((figure, at) => valueItem(figure, indicator.unit, indicator.figures[at - 1]))));
  }
  if (indicator.note_zh) block.append(element("p", "said", indicator.note_zh, english(indicator.note_en)));
  return block;
}

/** What a chart shows, for those who do not see it. */
function described(chart) {
  const bars = chart.bars.map((bar) => `${bar.label} ${quantity(bar.value, chart.unit)}`);
  const lines = chart.lines.map((line) => `${line.name_zh}：${line.xs.map((x, at) => `${x} 年 ${quantity(line.ys[at], chart.unit)}`).join("，")}`);
  return `${chart.title_zh}。${[...bars, ...lines].join("；")}`;
}

function picture(chart, files) {
  const image = element("img", "");
  image.src = files(`${chart.name}.svg`);
  image.alt = described(chart);
  image.loading = "lazy";
  return element("figure", "chart", element("div", "scrolls", image), element("figcaption", "", chart.title_zh, english(chart.title_en)));
}

function themeSection(theme, files) {
  const heading = element("h2", "", `${theme.title_zh} `, english(theme.title_en));
  heading.id = `theme-${theme.code}`;
  const section = element(
    "section",
    "panel report-part",
    heading,
    ...theme.indicators.map(indicatorBlock),
    ...theme.charts.map((chart) => picture(chart, files)),
  );
  section.setAttribute("aria-labelledby", heading.id);
  return section;
}

function tallies(themes) {
  const all = themes.flatMap((theme) => theme.indicators);
  return Object.entries(OUTCOMES).flatMap(([status, [chinese, inEnglish]]) => {
    const number = all.filter((indicator) => indicator.status === status).length;
    return number ? [element("li", "", element("b", "", String(number)), element("span", "", chinese), english(inEnglish))] : [];
  });
}

function show(report) {
  const { content } = report;
  const files = (name) => `${REPORTS_URL}/${report.year}/files/${name}?revision=${report.revision}`;
  document.title = `${content.title_zh} · 碳普惠`;
  byId("title").textContent = content.title_zh;
  byId("title-en").textContent = content.title_en;
  byId("document").href = files(report.document);
  byId("correction").hidden = !content.correction;
  byId("correction").textContent = `本版为第 ${report.revision} 版（更正版）。更正原因：${content.correction}`;
  byId("basis").replaceChildren(
    `依据${content.document}（${content.document_number}），数据截至 ${dayText(content.through)}，发布于 ${MOMENT.format(new Date(report.published_at))}。 `,
    english(`By the plan ${content.document_number}; figures through ${content.through}.`),
  );
  byId("counts").replaceChildren(...tallies(content.themes));
  byId("themes").replaceChildren(...content.themes.map((theme) => themeSection(theme, files)));
  byId("notes").replaceChildren(
    ...content.notes_zh.map((note, at) => element("li", "", note, english(content.notes_en[at] ?? ""))),
  );
  byId("proof").replaceChildren(`报告内容 SHA-256：${report.sha256} `, english("of the report’s content"));
  byId("report").hidden = false;
}

async function load(year, revision) {
  say("正在读取… Reading…");
  const query = revision === null ? "" : `?${new URLSearchParams({ revision })}`;
  show(await readJson(`${REPORTS_URL}/${encodeURIComponent(year)}${query}`));
  say("");
}

async function start() {
  const { items } = await readJson(`${REPORTS_URL}?limit=${YEARS_SHOWN_MAX}`);
  if (!items.length) {
    say("尚未发布年度评估报告。 No annual report has been published yet.");
    return;
  }
  const asked = new URLSearchParams(location.search);
  const newest = new Map();
  for (const item of items) if (!newest.has(item.year)) newest.set(item.year, item.revision);
  byId("year").replaceChildren(
    ...items.map((item) => {
      const old = newest.get(item.year) !== item.revision;
      const option = element("option", "", `${item.year} 年${item.revision > 1 || old ? `（第 ${item.revision} 版${old ? "，已更正" : ""}）` : ""}`);
      option.value = `${item.year}/${item.revision}`;
      return option;
    }),
  );
  const year = asked.get("year") ?? String(items[0].year);
  const revision = asked.get("revision") ?? String(newest.get(Number(year)) ?? 1);
  byId("year").value = `${year}/${revision}`;
  byId("which").hidden = false;
  await load(year, revision);
}

const complain = (error) => {
  byId("report").hidden = true;
  say(wordsOf(error), true);
};

byId("year").addEventListener("change", (event) => {
  const [year, revision] = event.target.value.split("/");
  history.replaceState(null, "", `?${new URLSearchParams({ year, revision })}`);
  load(year, revision).catch(complain);
});
byId("which").addEventListener("submit", (event) => event.preventDefault());

start().catch(complain);
