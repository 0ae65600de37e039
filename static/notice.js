// The public notices: who is about to be named, objections by anyone, and their answers by receipt.
"use strict";

const NOTICES_URL = "/api/v1/creation/notices";
const FILES_MAX = 3;

let cursor = null;
let chosen = null;

function notice(row) {
  const button = element("button", "button quiet", "提出异议 ", english("Object"));
  button.type = "button";
  button.addEventListener("click", () => choose(row));
  const mark = row.rubric.confidence === "V" ? "" : `（标准来源可信程度：${row.rubric.confidence}，${row.rubric.source}）`;
  return element(
    "article",
    "card",
    element("h3", "", row.subject_name),
    element("p", "", `${row.programme_zh} · ${row.year} 年`),
    element("p", "", `得分 ${row.score} / ${row.maximum}${mark}`),
    element("p", "", `公示期 ${dayText(row.published_on)} 至 ${dayText(row.last_on)}`),
    element("p", "actions", button),
  );
}

function choose(row) {
  chosen = row;
  byId("objection-about").textContent = `${row.subject_name} · ${row.programme_zh}，公示至 ${dayText(row.last_on)}`;
  byId("received").hidden = true;
  byId("object").hidden = false;
  byId("objection").hidden = false;
  byId("objection").scrollIntoView({ behavior: "smooth" });
  byId("object").elements.text.focus({ preventScroll: true });
}

async function load() {
  const query = new URLSearchParams({ limit: "20", ...(cursor ? { cursor } : {}) });
  const page = await readJson(`${NOTICES_URL}?${query}`);
  byId("notices").append(...page.items.map(notice));
  cursor = page.next_cursor;
  byId("more").hidden = cursor === null;
  say(byId("notices").childElementCount ? "" : "目前没有公示中的申报。 Nothing is under notice at the moment.");
}

/** Sends the objection, then its files one by one; the receipt is shown even when a file is refused. */
async function object(form) {
  const files = [...form.elements.files.files];
  if (files.length > FILES_MAX) throw new Error(`最多 ${FILES_MAX} 个文件。 At most ${FILES_MAX} files.`);
  const { receipt } = await readJson(`${NOTICES_URL}/${chosen.id}/objections`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ text: form.elements.text.value, contact: form.elements.contact.value }),
  });
  byId("receipt").textContent = receipt;
  byId("received").hidden = false;
  form.hidden = true;
  form.reset();
  for (const file of files) {
    const body = new FormData();
    body.append("file", file);
    await call("/api/v1/creation/objections/mine/files", { method: "POST", headers: { "Objection-Receipt": receipt }, body });
  }
}

function row(term, value) {
  return element("div", "", element("dt", "", term), element("dd", "", value));
}

const complain = (error) => say(error instanceof Refused || error instanceof TypeError || error.name === "TimeoutError" ? wordsOf(error) : error.message, true);

byId("more").addEventListener("click", () => load().catch(complain));

byId("object").addEventListener("submit", (event) => {
  event.preventDefault();
  say("正在提交… Sending…");
  object(event.target).then(() => say("异议已提交。 The objection was received."), complain);
});

byId("look-up").addEventListener("submit", (event) => {
  event.preventDefault();
  const receipt = event.target.elements.receipt.value.trim();
  readJson("/api/v1/creation/objections/mine", { headers: { "Objection-Receipt": receipt } })
    .then((found) => {
      const result = found.answer === null ? "尚未答复 Not answered yet" : `${found.upheld ? "异议成立" : "异议不成立"}：${found.answer}`;
      byId("answer").replaceChildren(
        row("提交时间 Made", MOMENT.format(new Date(found.made_at))),
        row("异议 Objection", found.text),
        row("材料 Files", String(found.files.length)),
        row("答复 Answer", result),
      );
      byId("answer").hidden = false;
      say("");
    })
    .catch((error) => {
      byId("answer").hidden = true;
      complain(error);
    });
});

load().catch(complain);
