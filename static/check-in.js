// The staff's check-in screen. Tokens live in this page's memory only: a screen in a hall is nobody's own computer.
"use strict";

const RETRY_MS = 3000;
const PERIOD_MS = 15000;
const LISTED_MAX = 100;

let tokens = null;
let timer = null;

async function signIn(name, password) {
  tokens = await readJson("/api/v1/sign-in/staff", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ name, password }),
  });
}

/** A call with the staff member's token, renewed once when it has expired: a campaign lasts longer than a token. */
async function asStaff(address) {
  const headers = () => ({ Authorization: `Bearer ${tokens.access_token}`, "Accept-Language": "zh-CN" });
  try {
    return await call(address, { headers: headers() });
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 401) throw error;
    tokens = await readJson("/api/v1/sign-in/refresh", {
      method: "POST",
      headers: { Authorization: `Bearer ${tokens.refresh_token}` },
    });
    return call(address, { headers: headers() });
  }
}

const listOf = async (address) => (await (await asStaff(address)).json()).items;

function fill(select, rows, text) {
  select.replaceChildren(...rows.map((row) => Object.assign(element("option", "", text(row)), { value: row.id })));
}

async function showCampaigns() {
  const found = (await listOf(`/api/v1/campaigns?limit=${LISTED_MAX}`)).filter((row) => ["published", "running"].includes(row.state));
  fill(byId("choose").elements.campaign, found, (row) => row.title);
  byId("sign-in").hidden = true;
  byId("choose").hidden = false;
  say(found.length ? "" : "没有进行中的活动。 No campaign is running.", !found.length);
  if (found.length) await showSlots();
}

async function showSlots() {
  const { campaign, slot } = byId("choose").elements;
  const open = (row) => row.cancelled_at === null && new Date(row.closes_at) > new Date();
  const found = (await listOf(`/api/v1/campaigns/${campaign.value}/slots?limit=${LISTED_MAX}`)).filter(open);
  fill(slot, found, (row) => `${row.site_name} · ${MOMENT.format(new Date(row.opens_at))}`);
  slot.slots = new Map(found.map((row) => [row.id, row]));
  say(found.length ? "" : "这个活动没有可签到的时段。 This campaign has no slot to come.", !found.length);
}

/** Shows the code and comes back when it changes; a failed call is tried again, for a hall's network comes and goes. */
async function showCode(address) {
  let again = RETRY_MS;
  try {
    const answer = await asStaff(address);
    const drawn = await answer.text();
    byId("code").src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(drawn)}`;
    const left = new Date(answer.headers.get("X-Code-Changes-At")) - new Date(answer.headers.get("Date"));
    again = Math.min(Math.max(left, 500), PERIOD_MS);
    say("");
  } catch (error) {
    // An old code must not stay: people would scan it in vain.
    byId("code").removeAttribute("src");
    say(wordsOf(error), true);
    if (error instanceof Refused && [401, 403, 404].includes(error.status)) return;
  }
  timer = setTimeout(() => showCode(address), again);
}

byId("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { name, password } = event.target.elements;
  try {
    await signIn(name.value, password.value);
    password.value = "";
    await showCampaigns();
  } catch (error) {
    say(wordsOf(error), true);
  }
});

byId("choose").elements.campaign.addEventListener("change", () => showSlots().catch((error) => say(wordsOf(error), true)));

byId("choose").addEventListener("submit", (event) => {
  event.preventDefault();
  const { campaign, slot, use } = event.target.elements;
  const chosen = slot.slots.get(slot.value);
  byId("screen-title").textContent = `${campaign.selectedOptions[0].text} · ${chosen.site_name}`;
  byId("screen-when").textContent = `${MOMENT.format(new Date(chosen.opens_at))} — ${MOMENT.format(new Date(chosen.closes_at))}`;
  byId("choose").hidden = true;
  byId("screen").hidden = false;
  showCode(`/api/v1/campaigns/${campaign.value}/slots/${slot.value}/code.svg?use=${use.value}`);
});

byId("another").addEventListener("click", () => {
  clearTimeout(timer);
  byId("code").removeAttribute("src");
  byId("screen").hidden = true;
  byId("choose").hidden = false;
});
