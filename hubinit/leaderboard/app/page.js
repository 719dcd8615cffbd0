// The address is the state: a link or a form asks the server for the page of its query, and shows it in place of this one.
const content = element.querySelector(".hubinit");
const status = element.querySelector("[role=status]");
let asked = 0;

const address = (anchor) => anchor.getAttribute("href") ?? anchor.getAttribute("xlink:href") ?? "";

async function show(query, { push = true, top = false } = {}) {
  const turn = ++asked;
  content.setAttribute("aria-busy", "true");
  const slow = setTimeout(() => (status.textContent = "Loading …"), 400);
  try {
    const page = await server.read_page(query);
    if (turn !== asked) return; // the reader has asked for another one since
    replace(page.html, top);
    document.title = page.title;
    status.textContent = page.status;
    if (push && page.query !== location.search) history.pushState(null, "", page.query + location.hash);
    // A Space is a frame: its address stands in the window around it.
    if (window.parent !== window) window.parent.postMessage({ queryString: page.query.slice(1) }, "https://huggingface.co");
  } catch (error) {
    console.error(error);
    if (turn === asked) fail(query);
  } finally {
    clearTimeout(slow);
    if (turn === asked) content.removeAttribute("aria-busy");
  }
}

// Keeps what the reader has opened, where the focus is, and how far a table is scrolled.
function replace(html, top) {
  const focus = document.activeElement;
  const open = [...content.querySelectorAll("details[open]")].map((one) => one.id);
  const closed = [...content.querySelectorAll("details:not([open])")].map((one) => one.id);
  const [start, end] = focus?.type === "search" ? [focus.selectionStart, focus.selectionEnd] : [];
  const aside = content.querySelector(".scroll")?.scrollLeft ?? 0;
  content.innerHTML = html;
  for (const id of open) content.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
  for (const id of closed) content.querySelector(`#${CSS.escape(id)}`)?.removeAttribute("open");
  if (top) {
    window.scrollTo(0, 0);
    content.querySelector("#content")?.focus({ preventScroll: true });
    return;
  }
  if (aside) content.querySelector(".scroll")?.scrollTo(aside, 0);
  const again = focus?.id ? content.querySelector(`#${CSS.escape(focus.id)}`) : null;
  again?.focus({ preventScroll: true });
  if (again && start !== undefined) again.setSelectionRange(start, end);
}

function fail(query) {
  content.innerHTML = `<div role="alert" class="empty"><p>The server did not answer. It may be starting again.</p>
    <p><a href="?">Try again</a></p></div>`;
  content.querySelector("a").setAttribute("href", query || "?");
  status.textContent = "The server did not answer.";
}

const submit = (form) => {
  const pairs = [...new FormData(form)].filter(([, value]) => value !== "");
  show(`?${new URLSearchParams(pairs)}`);
};

element.addEventListener("click", async (event) => {
  const anchor = event.target.closest("a");
  if (!anchor || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  if (address(anchor) === "#content") {
    event.preventDefault();
    content.querySelector("#content").focus();
  }
  if (!address(anchor).startsWith("?")) return;
  event.preventDefault();
  if (anchor.hasAttribute("data-copy")) {
    await navigator.clipboard?.writeText(new URL(address(anchor), location.href).href);
    status.textContent = anchor.textContent = "Link copied";
  } else if (anchor.hasAttribute("data-csv")) {
    const file = new Blob([await server.read_csv(address(anchor))], { type: "text/csv" });
    const save = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: anchor.download });
    save.click();
    URL.revokeObjectURL(save.href);
    status.textContent = "CSV saved";
  } else {
    const here = new URLSearchParams(location.search).get("view");
    show(address(anchor), { top: new URLSearchParams(address(anchor)).get("view") !== here });
  }
});
element.addEventListener("change", (event) => event.target.form?.matches("[data-live]") && submit(event.target.form));
element.addEventListener("submit", (event) => {
  event.preventDefault();
  submit(event.target);
});
let typing;
element.addEventListener("input", (event) => {
  if (event.target.type !== "search") return;
  clearTimeout(typing);
  typing = setTimeout(() => submit(event.target.form), 150);
});
addEventListener("popstate", () => show(location.search, { push: false }));
show(location.search, { push: false });
