// The public register: the names given, how they stand, and the rubrics they are given under.
"use strict";

const REGISTER_URL = "/api/v1/creation/register";
const STANDINGS = {
  standing: ["有效", "Standing"],
  recheck: ["复查中", "Being re-checked"],
  grace: ["限期整改", "Time given to mend"],
  expired: ["已到期", "Expired"],
  withdrawn: ["已摘牌", "Withdrawn"],
};

const form = byId("filter");
let cursor = null;

function cell(className, ...children) {
  return element("td", className, ...children);
}

function line(name) {
  const [zh, en] = STANDINGS[name.standing];
  const link = element("a", "", name.number);
  link.href = `/verify?code=${encodeURIComponent(name.number)}`;
  const header = element("th", "", name.subject_name);
  header.scope = "row";
  return element(
    "tr",
    "",
    header,
    cell("to-start", name.programme_zh),
    cell("to-start", link),
    cell("", dayText(name.named_on)),
    cell("", dayText(name.valid_until)),
    cell("", element("span", `standing ${name.standing}`, `${zh} `, english(en))),
  );
}

async function load({ anew }) {
  const { programme, standing } = form.elements;
  const query = new URLSearchParams({ limit: "50" });
  if (programme.value) query.set("programme", programme.value);
  if (standing.value) query.set("standing", standing.value);
  if (!anew && cursor) query.set("cursor", cursor);
  const page = await readJson(`${REGISTER_URL}?${query}`);
  const body = byId("names").tBodies[0];
  if (anew) body.replaceChildren();
  body.append(...page.items.map(line));
  cursor = page.next_cursor;
  byId("more").hidden = cursor === null;
  say(body.childElementCount ? "" : "尚无命名。 Nothing has been named yet.");
}

function programmeCard(each) {
  const lines = each.targets.map((target) =>
    element("p", "", `${target.year}：${target.text_zh}`, element("small", "mark", ` ${target.confidence} · ${target.source}`)));
  const rubric = each.rubric
    ? [element("p", "", `评价标准：${each.rubric.title_zh}`, element("small", "mark", ` ${each.rubric.confidence} · ${each.rubric.source}`))]
    : [];
  const figure = each.figure
    ? [element("p", "", `${each.indicator_zh}：${each.figure.value} ${each.indicator_unit}（${dayText(each.figure.measured_on)}）`,
        element("small", "mark", ` ${each.figure.confidence} · ${each.figure.source}`))]
    : [];
  return element("article", "card", element("h3", "", `${each.title_zh} `, english(each.title_en)), ...lines, ...rubric, ...figure);
}

async function loadProgrammes() {
  const { programmes } = await readJson("/api/v1/creation/programmes");
  byId("programmes").append(...programmes.map(programmeCard));
  const takesApplications = programmes.filter((each) => each.subject_kind !== null);
  form.elements.programme.append(
    ...takesApplications.map((each) => Object.assign(element("option", "", each.title_zh), { value: each.code })));
}

const complain = (error) => say(wordsOf(error), true);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  load({ anew: true }).catch(complain);
});
byId("more").addEventListener("click", () => load({ anew: false }).catch(complain));

load({ anew: true }).catch(complain);
loadProgrammes().catch(complain);
