// What the pages share: elements without markup, one way to call the API, and problems in the reader's words.
"use strict";

const TIMEOUT_MS = 15000;

const byId = (id) => document.getElementById(id);

/** A new element with a class and children; a string child becomes text, never markup. */
function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function english(text) {
  const node = element("span", "", text);
  node.lang = "en";
  return node;
}

/** Says something in the page's status line; a fault stands out. */
function say(text, isWrong = false) {
  const status = byId("status");
  status.textContent = text;
  status.classList.toggle("wrong", isWrong);
}

/** A refused call: the problem's title for people, its code for us. */
class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ? `${problem.title}（${problem.detail}）` : problem.title || `HTTP ${status}`);
    this.status = status;
    this.code = problem.code;
  }
}

/** The answer to a call, or a Refused with the problem's own words. */
async function call(address, options = {}) {
  const answer = await fetch(address, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (answer.ok) return answer;
  throw new Refused(answer.status, await answer.json().catch(() => ({})));
}

const readJson = async (address, options) => (await call(address, options)).json();

/** What went wrong, in words for a person. */
function wordsOf(error) {
  if (error instanceof Refused) return error.message;
  return "连接不上服务，请稍后再试。 The service cannot be reached; please try again.";
}

const DAY = new Intl.DateTimeFormat("zh-CN", { dateStyle: "medium", timeZone: "Asia/Shanghai" });
const MOMENT = new Intl.DateTimeFormat("zh-CN", { dateStyle: "medium", timeStyle: "short", timeZone: "Asia/Shanghai" });
/** A business day such as 2026-11-22, as people write it. */
const dayText = (day) => DAY.format(new Date(`${day}T00:00:00+08:00`));
