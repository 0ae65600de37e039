// The green-travel share: the published estimate with its interval, the goal, the years. Drawn with DOM calls only, so
// that no text of the answer is ever read as markup.
"use strict";

const SHARE_URL = "/api/v1/share";
const SVG = "http://www.w3.org/2000/svg";
const READINGS = {
  strict: ["严格口径", "不含电动自行车", "Strict: without e-bikes"],
  "with-e-bike": ["含电动自行车", "电动自行车计入绿色出行", "With e-bikes counted as green"],
};
const ANSWERS = {
  met: ["已达到", "The goal is met."],
  "not-met": ["未达到", "The goal is not met."],
  "cannot-be-told-yet": ["目前无法判断", "It cannot be told yet."],
};
const REASONS = {
  "interval-above-line": ["整个区间都在目标线以上", "the whole interval lies above the line"],
  "interval-below-line": ["整个区间都在目标线以下", "the whole interval lies below the line"],
  "interval-holds-line": ["目标线落在区间之内", "the line lies inside the interval"],
  "within-about": ["结果落在“左右”的范围内，增加样本也无法判断", "the figure lies where it depends on what “about” means; more people would not tell"],
  "no-line-that-year": ["该年度没有目标", "no goal for that year"],
  "no-estimate": ["尚无估计值", "there is no estimate"],
  unweighted: ["没有人口边际数据，未加权，不与目标线比较", "without margins of the population it is unweighted, and not set against the goal"],
  "estimate-doubted": ["结果自身的警示不允许判断，见阅读须知", "its own cautions forbid an answer, see below"],
  "readings-differ": ["两种口径的答案不同", "the two readings answer differently"],
};
const LEFT_OUT = {
  unweighted: ["未加权", "unweighted"],
  "other-definition": ["口径版本不同", "another definition"],
  "estimate-doubted": ["存疑", "doubted"],
  "no-error-known": ["误差不明", "no error known"],
};
const KINDS = { "household-survey": ["居民出行调查", "household survey"], diary: ["一日出行日记", "one-day diaries"] };
const WITHHELD = "少于 10 人应答，或可由其余数字推算，不公布 / withheld: fewer than 10 respondents, or it could be worked out";

const count = new Intl.NumberFormat("zh-CN");
const percent = new Intl.NumberFormat("zh-CN", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const wholePercent = new Intl.NumberFormat("zh-CN", { style: "percent", maximumFractionDigits: 1 });
const twoDecimals = new Intl.NumberFormat("zh-CN", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const oneDecimal = new Intl.NumberFormat("zh-CN", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const points = new Intl.NumberFormat("zh-CN", { signDisplay: "always", minimumFractionDigits: 1, maximumFractionDigits: 1 });

const interval = (each) => `${percent.format(each.low)} – ${percent.format(each.high)}`;

/** A new SVG element with attributes; a string child becomes text. */
function shape(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

function withheld() {
  const dash = element("span", "withheld", "—");
  dash.title = WITHHELD;
  dash.setAttribute("role", "img");
  dash.setAttribute("aria-label", WITHHELD);
  return dash;
}

function rows(id, pairs) {
  byId(id).replaceChildren(...pairs.map(([name, ...value]) => element("div", "", element("dt", "", ...[name].flat()), element("dd", "", ...value))));
}

/** One reading: the share, its interval, what it rests on, and its answer to the goal. */
function readingCard(reading, weighted, answer) {
  const [zh, note, en] = READINGS[reading.reading] || [reading.reading, "", reading.reading];
  const estimate = reading.estimate;
  const card = element(
    "article", "reading",
    element("h3", "", `${zh} `, element("span", "soft", note)),
    element("p", "value", percent.format(estimate.share)),
    element("p", "", `95% 区间 ${interval(estimate)}`),
    element("p", "soft", `应答 ${count.format(estimate.n)} 人，出行 ${count.format(estimate.trips)} 次；有效样本 ${count.format(Math.round(estimate.n_effective))} 人，设计效应 ${twoDecimals.format(estimate.design_effect)}`),
    element("p", "soft", weighted ? `未加权时 ${percent.format(reading.naive)}` : "未加权，不代表全体居民"),
    element("p", "", english(`${en}: 95% interval ${interval(estimate)}; ${count.format(estimate.n)} respondents, effectively ${count.format(Math.round(estimate.n_effective))}; ${weighted ? `unweighted it would be ${percent.format(reading.naive)}` : "unweighted: it speaks for those asked"}`)),
  );
  if (answer && weighted) {
    const [wordZh, wordEn] = ANSWERS[answer.answer];
    const [whyZh, whyEn] = REASONS[answer.reason];
    const needed = answer.persons_to_tell === null ? ["", ""] : [`；若比例如此，约 ${count.format(answer.persons_to_tell)} 人应答可以判断`, `; were it so, some ${count.format(answer.persons_to_tell)} respondents would tell`];
    card.append(element("p", "said", element("b", "", wordZh), `：${whyZh}${needed[0]}。`, english(`${wordEn.replace(/\.$/, "")}: ${whyEn}${needed[1]}.`)));
  }
  return card;
}

const targetText = (target) => `${target.about ? "约 " : ""}${wholePercent.format(target.share)}`;

function showAnswer(answer, release) {
  const [zh, en] = ANSWERS[answer.answer];
  const [whyZh, whyEn] = REASONS[answer.reason];
  byId("answer-title").replaceChildren(
    release ? `${release.headline.year} 年` : "目标是否达到",
    " ", english(release ? `The year ${release.headline.year}, definition ${release.headline.definition_id}` : "Is the goal met?"),
  );
  byId("nothing").hidden = release !== null;
  byId("readings").replaceChildren(...(release ? release.headline.readings.map((reading) => readingCard(reading, release.headline.weighted, answer.readings.find((each) => each.reading === reading.reading))) : []));
  const target = answer.target;
  const asked = target ? `${answer.year} 年目标 ${targetText(target)}${target.interpolated ? "（两个规划年之间按直线）" : ""}：` : "";
  const askedEn = target ? `Goal of ${answer.year}: ${target.about ? "about " : ""}${wholePercent.format(target.share)}${target.interpolated ? " (straight line between two years of the plan)" : ""}. ` : "";
  byId("answer").replaceChildren(element("p", `verdict ${answer.answer}`, asked, element("strong", "", zh), `，${whyZh}。`, english(`${askedEn}${en.replace(/\.$/, "")}: ${whyEn}.`)));
}

/** What each sign of the chart means. */
function showLegend(hasTrend) {
  const key = (draw, zh, en) => {
    const sign = shape("svg", { viewBox: "0 0 32 20", "aria-hidden": "true" }, ...draw);
    return element("span", "key", sign, element("span", "", `${zh} `, english(en)));
  };
  const bar = (name) => [shape("line", { class: name, x1: 16, x2: 16, y1: 1, y2: 19 }), shape("circle", { class: name, cx: 16, cy: 10, r: 4.5 })];
  const keys = [
    key(bar("strict"), "严格口径及区间", "strict, with interval"),
    key(bar("with-e-bike"), "含电动自行车", "with e-bikes"),
    key([shape("line", { class: "goal", x1: 2, x2: 30, y1: 10, y2: 10 }), shape("circle", { class: "goal-dot", cx: 16, cy: 10, r: 4 })], "目标", "the goal"),
  ];
  if (hasTrend) keys.push(key([shape("rect", { class: "band", x: 2, y: 2, width: 28, height: 16 }), shape("line", { class: "fit", x1: 2, x2: 30, y1: 10, y2: 10 })], "趋势外推（严格口径）及 95% 预测区间", "trend (strict) with 95% prediction interval"));
  byId("legend").replaceChildren(...keys);
}

/** Estimates with their intervals, the goal line, and the projection's band that widens. */
function chart(line, trends) {
  const strict = trends.find((each) => each.reading === "strict");
  const projected = strict && strict.trend ? strict.trend.projected : [];
  const years = [...line.points.map((each) => each.year), ...trends.flatMap((each) => each.points.map((point) => point.year))];
  if (!years.length) return element("p", "hint", "没有目标，也没有估计值。");
  const first = Math.min(...years), last = Math.max(...years, first + 1);
  const shares = [...line.points.map((each) => each.share), ...trends.flatMap((each) => each.points.flatMap((point) => [point.low, point.high])), ...projected.flatMap((each) => [each.low, each.high])];
  const lowest = Math.max(0, Math.floor((Math.min(...shares) - 0.02) * 10) / 10), highest = Math.min(1, Math.ceil((Math.max(...shares) + 0.04) * 10) / 10);
  // A narrow screen gets a narrow drawing: shrunken, its words could not be read.
  const isNarrow = window.innerWidth < 700;
  const width = isNarrow ? 400 : 860, height = isNarrow ? 330 : 380, left = 48, right = isNarrow ? 10 : 24, top = 18, bottom = 36, inset = isNarrow ? 22 : 30;
  const x = (year) => left + inset + ((year - first) / (last - first)) * (width - left - right - 2 * inset);
  const y = (share) => top + ((highest - share) / (highest - lowest)) * (height - top - bottom);

  const words = [
    `目标：${line.points.map((point) => `${point.year} 年${targetText(point)}`).join("，")}`,
    ...trends.map((each) => `${READINGS[each.reading][0]}：${each.points.map((point) => `${point.year} 年 ${percent.format(point.share)}（${interval(point)}）`).join("，") || "尚无"}`),
  ].join("。");
  const picture = shape("svg", { class: "share-chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words });
  const step = highest - lowest > 0.5 ? 20 : 10;
  for (let level = Math.ceil(lowest * 100 - 1e-9); level <= highest * 100 + 1e-9; level += 1) {
    if (level % step) continue;
    picture.append(shape("line", { class: "grid", x1: left, x2: width - right, y1: y(level / 100), y2: y(level / 100) }));
    picture.append(shape("text", { class: "axis", x: left - 10, y: y(level / 100) + 4.5, "text-anchor": "end" }, `${level}%`));
  }
  const stride = Math.ceil((last - first + 1) / (isNarrow ? 6 : 14));
  for (let year = first; year <= last; year += stride) picture.append(shape("text", { class: "axis", x: x(year), y: height - 12, "text-anchor": "middle" }, String(year)));

  if (projected.length) {
    const upper = projected.map((each) => `${x(each.year)},${y(each.high)}`), lower = projected.map((each) => `${x(each.year)},${y(each.low)}`).reverse();
    picture.append(shape("polygon", { class: "band", points: [...upper, ...lower].join(" ") }));
    picture.append(shape("polyline", { class: "fit", points: projected.map((each) => `${x(each.year)},${y(each.share)}`).join(" ") }));
  }
  if (line.points.length) picture.append(shape("polyline", { class: "goal", points: line.points.map((each) => `${x(each.year)},${y(each.share)}`).join(" ") }));
  for (const point of line.points) {
    // A goal that is "about" is a soft disc: it is no sharp limit.
    if (point.about) picture.append(shape("circle", { class: "goal-about", cx: x(point.year), cy: y(point.share), r: 16 }));
    picture.append(shape("circle", { class: "goal-dot", cx: x(point.year), cy: y(point.share), r: 5 }));
    // Above whatever else stands in that year.
    const top = Math.max(point.share, ...trends.flatMap((each) => each.points.filter((other) => other.year === point.year).map((other) => other.high)));
    const isEdge = x(point.year) > width - right - 40;
    picture.append(shape("text", { class: "value", x: isEdge ? width - right : x(point.year), y: y(top) - (point.about ? 20 : 12), "text-anchor": isEdge ? "end" : "middle" }, targetText(point)));
  }
  trends.forEach((each, position) => {
    const aside = (position - (trends.length - 1) / 2) * (isNarrow ? 11 : 16);
    for (const point of each.points) {
      const place = x(point.year) + aside, mark = `${each.reading}${point.left_out === null ? "" : " left-out"}`;
      const label = `${point.year} ${READINGS[each.reading][0]} ${percent.format(point.share)}（${interval(point)}）${point.left_out === null ? "" : ` ${LEFT_OUT[point.left_out][0]}`}`;
      const group = shape("g", { class: mark }, shape("title", {}, label));
      group.append(shape("line", { x1: place, x2: place, y1: y(point.low), y2: y(point.high) }));
      for (const end of [point.low, point.high]) group.append(shape("line", { x1: place - 5, x2: place + 5, y1: y(end), y2: y(end) }));
      group.append(shape("circle", { cx: place, cy: y(point.share), r: 5.5 }));
      picture.append(group);
    }
  });
  return picture;
}

function showTrend(line, trends) {
  showLegend(trends.some((each) => each.reading === "strict" && each.trend !== null));
  byId("chart").replaceChildren(chart(line, trends));
  const words = [];
  if (trends.every((each) => each.trend === null)) {
    words.push(element("p", "", "可比年份不足三年，不作趋势与外推。", english("Fewer than three comparable years: no trend is drawn and nothing projected.")));
  }
  for (const each of trends) {
    if (each.trend === null) continue;
    const end = each.trend.projected[each.trend.projected.length - 1];
    const name = READINGS[each.reading];
    words.push(element(
      "p", "",
      `${name[0]}（${each.definition_id}）：每年约 ${points.format(each.trend.slope_points_per_year)} 个百分点（${points.format(each.trend.slope_low)} 至 ${points.format(each.trend.slope_high)}）；若照此延续，${end.year} 年为 ${percent.format(end.share)}（95% 预测区间 ${interval(end)}）。`,
      english(`${name[2]}: ${points.format(each.trend.slope_points_per_year)} points a year; if it goes on so, ${percent.format(end.share)} in ${end.year} (95% prediction interval ${interval(end)}).`),
    ));
  }
  if (words.length && trends.some((each) => each.trend !== null)) {
    words.push(element("p", "soft", "外推假定直线趋势不变，没有任何数据能保证这一点。", english("The projection assumes that the straight trend goes on, which no data can promise.")));
  }
  for (const point of (trends[0] || { points: [] }).points) {
    if (point.left_out !== null) words.push(element("p", "soft", `${point.year} 年不计入趋势：${LEFT_OUT[point.left_out][0]}。`, english(`${point.year} is not in the trend: ${LEFT_OUT[point.left_out][1]}.`)));
  }
  byId("trend-words").replaceChildren(...words);
  const about = line.points.some((each) => each.about) ? ` “左右”暂按 ${wholePercent.format(line.about_tolerance)} 理解：${line.about_source} [${line.about_confidence}]。` : "";
  byId("line-source").replaceChildren(
    line.source ? `目标：${line.source}${line.document} [${line.confidence}]：“${line.text}”。两个规划年之间的直线仅供阅读，不是规划内容。${about}` : "",
    english("The line between the years of the plan is ours, to help reading; the plan names the two years alone."),
  );
}

function showCautions(cautions) {
  byId("cautions-part").hidden = cautions.length === 0;
  byId("cautions").replaceChildren(...cautions.map((each) => element("li", "", each.wave ? `${each.wave}：` : "", each.text_zh, english(each.text_en))));
}

/** An interval as short as a table needs it. */
const range = (each) => `${oneDecimal.format(each.low * 100)}–${percent.format(each.high)}`;

function shareCell(street) {
  return street.withheld ? element("td", "", withheld()) : element("td", "", percent.format(street.share), element("small", "", range(street)));
}

function showStreets(readings) {
  const strict = readings.find((each) => each.reading === "strict") || { streets: [] };
  const other = readings.find((each) => each.reading === "with-e-bike") || { streets: [] };
  byId("streets-part").hidden = strict.streets.length === 0;
  byId("streets").replaceChildren(...strict.streets.map((street) => {
    // The mark stands with the name, where no narrow screen cuts it off.
    const name = element("th", "", street.street_name, street.modelled ? element("span", "mark model", " 模型 ", english("model")) : "");
    name.scope = "row";
    const beside = other.streets.find((each) => each.street_code === street.street_code);
    return element("tr", "", name, element("td", "", street.withheld ? withheld() : count.format(street.n)), shareCell(street), beside ? shareCell(beside) : element("td"));
  }));
}

/** One wave: whom it asked, how many answered, what it says by itself, and its part in the whole. */
function waveCard(wave) {
  const [kindZh, kindEn] = KINDS[wave.kind] || [wave.kind, wave.kind];
  const treated = wave.raked
    ? [`按人口边际校准${wave.converged ? "" : "（未收敛）"}，截断 ${count.format(wave.trimmed)} 人（占权重 ${percent.format(wave.trimmed_weight_share)}），与边际最大偏差 ${percent.format(wave.margin_gap_max)}`, `raked to the margins${wave.converged ? "" : " (not converged)"}, ${count.format(wave.trimmed)} trimmed`]
    : ["未加权", "unweighted"];
  const own = wave.readings.map((each) => `${READINGS[each.reading][0]} ${percent.format(each.share)}（${range(each)}）${each.combining_weight === null ? "" : `，合并权重 ${wholePercent.format(each.combining_weight)}`}`).join("；");
  return element(
    "article", "reading",
    element("h3", "", `${wave.name} `, element("span", "soft", `${kindZh} `, kindEn)),
    element("p", "soft", `${dayText(wave.first_on)} 至 ${dayText(wave.last_on)}；抽样框：${wave.frame}；${wave.source} [${wave.confidence}]`),
    element("p", "", `抽取 ${count.format(wave.drawn)} 人，应答 ${count.format(wave.responded)} 人（${wholePercent.format(wave.response_rate)}）`),
    element("p", "", own),
    element("p", "soft", `${treated[0]}。`),
    element("p", "", english(`${count.format(wave.responded)} of ${count.format(wave.drawn)} drawn answered; ${treated[1]}.`)),
  );
}

function showWaves(release) {
  byId("waves").replaceChildren(...release.waves.map(waveCard));
  const margins = release.margins;
  byId("population").replaceChildren(...(margins
    ? [`代表的人口：${margins.population}，${count.format(margins.persons)} 人（${dayText(margins.as_of)}，${margins.source} [${margins.confidence}]）。`, english(`The population it stands for, with source and date; ${count.format(margins.persons)} persons.`)]
    : ["没有人口边际数据：结果未加权，只反映应答者。", english("No margins of the population: the figures are unweighted and speak for those who answered.")]));
}

function showDefinition(definition) {
  const modes = (green) => definition.modes.filter((each) => each.green === green).map((each) => `${each.title_zh}${each.confidence === "V" ? "" : ` [${each.confidence}]`}`).join("、") || "—";
  rows("definition", [
    [["版本 ", english("Version")], `${definition.id}（${dayText(definition.valid_from)} 起）`],
    [["定义 ", english("Definition")], `${definition.title_zh} [${definition.confidence}]`],
    [["出处 ", english("Source")], definition.source],
    [["计入绿色 ", english("Green")], modes("always")],
    [["仅在第二种口径计入 ", english("Green with e-bikes only")], modes("with-e-bike")],
    [["只计入全部出行 ", english("In the denominator alone")], modes("never")],
    [["多段出行 ", english("Trips of several legs")], `${definition.main_mode_zh} [${definition.main_mode_confidence}]`],
    [["年龄 ", english("Age")], `${definition.age_min} 岁及以上`],
  ]);
}

function showPlatform(records) {
  byId("platform-title").replaceChildren(records.label_zh, " ", english(records.label_en));
  byId("platform-note").replaceChildren(records.note_zh, english(records.note_en));
  const shown = records.modes.filter((each) => each.share !== null);
  byId("platform").replaceChildren(...records.modes.map((mode) => {
    if (mode.share === null) return element("li", "", element("span", "", mode.name_zh), element("span", "count", "—"));
    const fill = element("span", "fill");
    fill.style.width = `${mode.share * 100}%`;
    const track = element("span", "track", fill);
    track.setAttribute("aria-hidden", "true");
    return element("li", "", element("span", "", mode.name_zh), element("span", "count", element("b", "", percent.format(mode.share))), track);
  }));
  byId("platform-base").replaceChildren(
    shown.length ? `占已公布方式的约 ${count.format(records.trips_about)} 次记录（${dayText(records.first_on)}–${dayText(records.last_on)}）。` : "记录过少，不公布。",
    english(shown.length ? `Of about ${count.format(records.trips_about)} records of the modes shown.` : "Too few records to publish."),
  );
}

function showProof(release) {
  const proof = release.proof;
  byId("command").textContent = `flask share reproduce ${release.headline.name}`;
  rows("proof", [
    [["结果 ", english("Result, SHA-256")], proof.result_sha256],
    [["输入 ", english("Input, SHA-256")], proof.input_sha256],
    [["代码 ", english("Code")], proof.code_version],
    [["种子 ", english("Seed")], String(proof.seed)],
    [["程序库 ", english("Libraries")], Object.entries(proof.libraries).map(([name, version]) => `${name} ${version}`).join(", ")],
    [["计算 ", english("Computed")], MOMENT.format(new Date(proof.computed_at))],
    [["审核 ", english("Reviewed by a second person")], proof.reviewed_at === null ? "—" : MOMENT.format(new Date(proof.reviewed_at))],
    [["发布 ", english("Published")], release.headline.published_at === null ? "—" : MOMENT.format(new Date(release.headline.published_at))],
  ]);
}

/** A release that is looked at though another one has corrected it, or that corrects another. */
function showStanding(release) {
  const headline = release.headline;
  const said = [];
  if (headline.corrected_by !== null) said.push("此结果已被更正，保留备查。", english("This release has been corrected; it stays for the record."));
  else if (headline.corrects !== null) said.push(`此结果更正了先前的发布，原因：${headline.reason}。`, english("This release corrects an earlier one."));
  byId("older").replaceChildren(...said);
  byId("older").hidden = said.length === 0;
}

let cursor = null;

async function loadReleases() {
  const query = new URLSearchParams(cursor === null ? { limit: 20 } : { limit: 20, cursor });
  const page = await readJson(`${SHARE_URL}/releases?${query}`);
  for (const each of page.items) {
    const link = element("a", "", `${each.name}（${each.year} 年）`);
    link.href = `/share?release=${encodeURIComponent(each.id)}`;
    const shares = each.readings.map((reading) => `${READINGS[reading.reading][0]} ${percent.format(reading.estimate.share)}`).join("，");
    const notes = [each.weighted ? "" : " · 未加权", each.corrected_by === null ? "" : " · 已更正", each.reason ? ` · 更正原因：${each.reason}` : ""].join("");
    byId("releases").append(element("li", "", link, ` ${shares}`, element("span", "wrong", notes)));
  }
  if (!byId("releases").children.length) byId("releases").append(element("li", "", "尚无。", english("None yet.")));
  cursor = page.next_cursor;
  byId("more").hidden = cursor === null;
}

function showRelease(release) {
  byId("release").hidden = release === null;
  if (release === null) return;
  showStanding(release);
  showCautions(release.cautions);
  showStreets(release.headline.readings);
  showWaves(release);
  showDefinition(release.definition);
  showPlatform(release.platform_records);
  showProof(release);
}

async function load() {
  say("正在读取… Loading…");
  try {
    const wanted = new URLSearchParams(location.search).get("release");
    const overview = await readJson(SHARE_URL);
    const release = wanted === null ? overview.latest : await readJson(`${SHARE_URL}/releases/${encodeURIComponent(wanted)}`);
    byId("district").textContent = overview.line.district_name;
    document.title = `${overview.line.district_name}绿色出行比例`;
    showAnswer(release === null ? overview.answer : release.goal, release);
    showTrend(overview.line, overview.trends);
    showRelease(release);
    await loadReleases();
    byId("share").hidden = false;
    say(release === null ? "" : `发布 ${release.headline.name}，${release.headline.published_at === null ? "" : MOMENT.format(new Date(release.headline.published_at))}`);
  } catch (error) {
    console.error(error);
    byId("share").hidden = true;
    say(wordsOf(error), true);
  }
}

byId("more").addEventListener("click", () => loadReleases().catch((error) => say(wordsOf(error), true)));
load();
