// Checks a certificate's code or a plaque's number, typed in or out of a QR code's address.
"use strict";

const STANDINGS = { standing: "有效", recheck: "复查中", grace: "限期整改", expired: "已到期", withdrawn: "已摘牌" };
const MOVES = {
  name: "命名",
  "begin-recheck": "开始复查",
  retain: "保留",
  "give-grace": "限期整改",
  "report-mended": "报告整改完成",
  withdraw: "摘牌",
};
const CODE_LENGTH = 10;

function fact(term, value) {
  return element("div", "", element("dt", "", term), element("dd", "", value));
}

function show(title, facts) {
  byId("found-title").textContent = title;
  byId("facts").replaceChildren(...facts.filter(([, value]) => value !== null).map(([term, value]) => fact(term, value)));
  byId("found").hidden = false;
  say("");
}

async function verifyCertificate(code) {
  const found = await readJson(`/api/v1/certificates/${encodeURIComponent(code)}`);
  show(found.valid ? "证书有效 · The certificate is true" : "证书已撤销 · The certificate was taken back", [
    ["活动 Campaign", found.campaign_title],
    ["获得者 Holder", found.holder],
    ["颁发单位 Issuer", found.issuer],
    ["活动时间 From – to", `${dayText(found.starts_on)} — ${dayText(found.ends_on)}`],
    ["颁发日 Issued", dayText(found.issued_on)],
    ["撤销 Taken back", found.revoked_on && dayText(found.revoked_on)],
  ]);
}

async function verifyNumber(number) {
  const found = await readJson(`/api/v1/creation/register/${encodeURIComponent(number)}`);
  show(`${found.subject_name} · ${found.programme_zh}`, [
    ["编号 Number", found.number],
    ["状态 Standing", STANDINGS[found.standing]],
    ["命名日 Named on", dayText(found.named_on)],
    ["授牌日 Plaque", found.plaque_on && dayText(found.plaque_on)],
    ["有效期至 Valid until", dayText(found.valid_until)],
    ["整改至 Time to mend until", found.grace_until && dayText(found.grace_until)],
    ["摘牌日 Withdrawn", found.withdrawn_on && dayText(found.withdrawn_on)],
    ["评价标准 Rubric", `${found.rubric.title_zh}（${found.rubric.confidence}，${found.rubric.source}）`],
    ...found.history.map((each) => [dayText(each.on), MOVES[each.move] || each.move]),
  ]);
}

function verify(code) {
  const wanted = code.trim().toUpperCase();
  const check = wanted.replace(/-/g, "").length === CODE_LENGTH ? verifyCertificate : verifyNumber;
  check(wanted).catch((error) => {
    byId("found").hidden = true;
    say(error instanceof Refused && error.status === 404 ? "查无此证，请核对编码。 No such certificate or number." : wordsOf(error), true);
  });
}

byId("look-up").addEventListener("submit", (event) => {
  event.preventDefault();
  verify(event.target.elements.code.value);
});

const asked = new URLSearchParams(location.search).get("code");
if (asked) {
  byId("look-up").elements.code.value = asked;
  verify(asked);
}
