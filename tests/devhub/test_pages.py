"""The embedded Hub's pages, as a browser asks for them: what they show, to whom, and that a stranger's card does nothing."""

import base64
from html.parser import HTMLParser
from urllib.parse import quote, urlsplit

import pytest
from huggingface_hub.utils import build_hf_headers, get_session

from hubinit.devhub.pages.markdown import ELEMENTS, MAX_CHARACTERS, is_costly, rendered
from hubinit.devhub.server import running

BROWSER = {
    "accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "sec-fetch-site": "none",
    "sec-fetch-mode": "navigate",
}


def basic(name, token):
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{token}".encode()).decode()}


ALICE, BOB = basic("alice", "hf_alice"), basic("bob", "hf_bob")


class Page(HTMLParser):
    """What a parser that is not nh3's finds in a page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes = set(), []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def values(self, name):
        return [value for known, value in self.attributes if known == name]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A Hub of its own with a public repo, a private one and a gated one."""
    card = b"---\nlicense: mit\ntags: [lora]\n---\n# A *fine* card\n\n![p](img/p.png) [notes](docs/n.md) [out](https://example.org/)\n"
    files = {"README.md": card, "img/p.png": b"\x89PNG", "docs/n.md": b"<script>alert(1)</script>", "w.bin": b"\0\1"}
    with running(tmp_path_factory.mktemp("shelf"), users={"alice": "hf_alice", "bob": "hf_bob"}) as shelf:
        for name, private in (("shown", False), ("hidden", True), ("gated", False)):
            shelf.store.create_repo("model", f"alice/{name}", private=private)
            shelf.store.commit("model", f"alice/{name}", files, message="Add <b>all</b>", author="alice")
        with shelf.store.edit("model", "alice/gated") as repo:
            repo.gated = "manual"
        shelf.store.create_repo("dataset", "alice/rows")
        yield shelf


@pytest.fixture
def look(shelf):
    """Gets a path as a browser does, with further headers."""

    def get(path, *headers):
        sent = dict(BROWSER)
        for more in headers:
            sent |= more
        return get_session().get(f"{shelf.url}{path}", headers=sent)

    return get


def test_the_index_and_the_pages_of_a_repo(shelf, look):
    assert 'href="/alice/shown"' in look("/").text
    assert 'href="/datasets/alice/rows"' in look("/datasets").text and "alice/shown" not in look("/datasets").text
    card = look("/alice/shown")
    sha = shelf.store.load("model", "alice/shown").head
    assert card.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>A <em>fine</em> card</h1>" in card.text and "license:mit" in card.text
    page = Page(card.text)
    assert f"/alice/shown/blob/{sha}/docs/n.md" in page.values("href")
    assert page.values("src") == [f"/alice/shown/resolve/{sha}/img/p.png"]
    assert "/alice/shown/blob/main/docs/n.md" in look("/alice/shown/tree/main/docs").text
    assert "&lt;script&gt;" in look("/alice/shown/blob/main/docs/n.md").text
    assert "not text" in look("/alice/shown/blob/main/w.bin").text
    assert "Add &lt;b&gt;all&lt;/b&gt;" in look("/alice/shown/commits/main").text
    assert look("/datasets/alice/rows").status_code == look("/alice/shown/").status_code == 200
    assert look("/alice/shown/blob/main/none").status_code == look("/alice/shown/tree/none").status_code == 404


@pytest.mark.parametrize(
    "path", ["/", "/alice/shown", "/alice/shown/tree/main", "/alice/none", "/alice/shown/blob/main/docs/n.md"]
)
def test_every_page_says_that_it_runs_nothing(shelf, look, path):
    headers = look(path, ALICE).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert "script-src" not in policy and "unsafe" not in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert headers["cache-control"] == "no-store"


def test_private_repos_show_to_who_signed_in_as_their_owner(shelf, look):
    for path in (
        "/alice/hidden",
        "/alice/hidden/tree/main",
        "/alice/hidden/blob/main/docs/n.md",
        "/alice/hidden/commits/main",
    ):
        asked = look(path)
        assert asked.status_code == 401 and asked.headers["www-authenticate"].startswith("Basic ")
        assert look(path, BOB).status_code == 404
        assert look(path, ALICE).status_code == 200
    assert look("/alice/hidden").text == look("/alice/absent").text.replace("absent", "hidden")
    assert "hidden" not in look("/").text and "hidden" not in look("/", BOB).text and "hidden" in look("/", ALICE).text
    content = "/alice/hidden/resolve/main/docs/n.md"
    assert (look(content).status_code, look(content, ALICE).status_code) == (401, 200)
    assert look("/login", ALICE).status_code == 200 and look("/login").status_code == 401
    for wrong in (basic("bob", "hf_alice"), basic("alice", "hf_bob"), basic("alice", ""), {"authorization": "Basic ?"}):
        assert look("/alice/hidden", wrong).status_code == 401


def test_gated_content_is_for_who_was_granted_access(shelf, look):
    assert "fine" not in look("/alice/gated", BOB).text and "fine" in look("/alice/gated", ALICE).text
    assert look("/alice/gated/blob/main/docs/n.md", BOB).status_code == 403


def test_a_kept_sign_in_does_not_count_for_the_api_or_for_other_sites(shelf, look):
    assert look("/api/models/alice/hidden", ALICE).status_code == 401
    create = get_session().post(f"{shelf.url}/api/repos/create", json={"name": "by-basic"}, headers=BROWSER | ALICE)
    assert create.status_code == 401 and not shelf.store.repo_exists("model", "alice/by-basic")
    for site in ("cross-site", "same-site"):
        other = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
        assert look("/alice/hidden", ALICE, other).status_code == 401
        assert look("/alice/hidden/resolve/main/docs/n.md", ALICE, other).status_code == 401
    assert (
        look("/alice/hidden", ALICE, {"sec-fetch-site": "cross-site"}).status_code == 200
    )  # a link that the person follows


def test_clients_are_answered_as_before(shelf):
    headers = build_hf_headers(token="hf_alice")
    for path in ("/alice/shown", "/", "/alice/shown/tree/main", "/alice/shown/blob/main/README.md", "/login"):
        answer = get_session().get(f"{shelf.url}{path}", headers=headers)
        assert answer.status_code == 404 and answer.headers["content-type"] == "application/json"
    api = get_session().get(f"{shelf.url}/api/models/alice/shown", headers=headers | BROWSER)
    assert api.json()["id"] == "alice/shown"


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<img src=https://evil.example/pixel.png> ![x](https://evil.example/pixel.png) ![x](//evil.example/pixel.png)",
    '<a href="javascript:alert(1)">x</a> <a href=" java\nscript:alert(1)">x</a> <a href="&#1;javascript:alert(1)">x</a>',
    "[x](javascript:alert%281%29) [x](JaVaScRiPt:alert) [x](vbscript:x) [x](data:text/html,<script>alert(1)</script>)",
    "[x](<javascript:alert(1)>) <javascript:alert(1)> ![x](javascript:alert(1))",
    "[x](../../../etc/passwd) ![x](../../other/resolve/main/y.png) ![x](/login) ![x](%2e%2e/%2e%2e/api) ![x](\\\\a\\x)",
    "<svg><script>alert(1)</script></svg><svg onload=alert(1)><a xlink:href='javascript:alert(1)'><text>x</text></a></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<iframe src=//evil.example></iframe><object data=x></object><embed src=x><base href=//evil.example/>",
    "<form action=//evil.example><input name=token><button>go</button></form><meta http-equiv=refresh content='0;url=//evil'>",
    "<style>*{background:url(//evil.example)}</style><p style='background:url(//evil.example)' class=x id=y>x</p>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "</article></main></body><body onload=alert(1)><details open ontoggle=alert(1)>x</details>",
    "`<img src=x onerror=alert(1)>` &lt;script&gt;alert(1)&lt;/script&gt; <!-- <script>alert(1)</script> -->",
    "|a|\n|-|\n|<img src=x onerror=alert(1)>|\n\n```<script>\n</code></pre><script>alert(1)</script>\n```",
    "{{ 7 * 7 }} {% for x in y %} {{ config }}",
]


@pytest.mark.parametrize("card", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_cards_do_nothing(card):
    shown = rendered(card, "/a/b/blob/sha", "/a/b/resolve/sha")
    page = Page(shown)
    assert page.elements <= ELEMENTS and not page.elements & {"script", "style", "svg", "form", "iframe"}
    assert not [
        name for name, _ in page.attributes if name.startswith("on") or name in ("style", "class", "id", "srcset")
    ]
    assert all(value.startswith("/a/b/resolve/sha/") and ".." not in value for value in page.values("src"))
    for value in page.values("href"):
        assert urlsplit(value).scheme in ("https", "http", "mailto") or value.startswith("/a/b/blob/sha/")
        assert ".." not in value
    assert "49" not in shown


def test_a_hostile_card_name_and_message_are_escaped(shelf, look):
    shelf.store.create_repo("model", "alice/hostile")
    tag = (
        b'---\ntags: ["<script>alert(1)</script>"]\nlibrary_name: "<img src=x onerror=a>"\n---\n'
        + "\n\n".join(HOSTILE).encode()
    )
    files = {"README.md": tag, "<img src=x onerror=alert(1)>.svg": b"<svg onload=alert(1)>", 'a"b&\u202egnp.txt': b"x"}
    shelf.store.commit("model", "alice/hostile", files, message="<script>alert(1)</script>", author="alice")
    svg = quote("<img src=x onerror=alert(1)>.svg")
    for path in (
        "",
        "/tree/main",
        "/commits/main",
        f"/blob/main/{svg}",
        "/blob/main/%3Cscript%3E",
        "/tree/%3Cscript%3E",
    ):
        page = Page(look(f"/alice/hostile{path}").text)
        assert not page.elements & {"script", "svg", "iframe", "form"}
        assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert look(f"/alice/hostile/resolve/main/{svg}").headers["content-type"].startswith("text/plain")


LONG = {
    "brackets": "[" * 100_000,
    "links": "[a](" * 30_000,
    "stars": "*a_ " * 30_000,
    "strong": "**a " * 30_000,
    "quotes": ">" * 100_000,
    "lists": "- " * 50_000,
    "ticks": "".join("`" * (n % 300) + " " for n in range(800)),
    "entities": "&#x41;" * 20_000,
    "tildes": "~~a" * 40_000,
    "elements": "<div>" * 1400,
    "unclosed": "<p>" + "".join(f"<b title={n}>" for n in range(690)) + "</p>" + "<p>a" * 700,
    "more unclosed": "<p>" + "".join(f"<b title={n}>" for n in range(3000)) + "</p>" + "<p>a" * 3000,
    "definition": f"[a]: /{'x' * 60_000}\n\n" + "[a]" * 20_000,
    "title": '[a]: /x "' + "y\n" * 30_000 + '"\n\n' + "[a]" * 20_000,
    "columns": f"|{'a|' * 15_000}\n|{'-|' * 15_000}\n" + "|a\n" * 15_000,
    "indent": "".join(f"{' ' * n}- a\n" for n in range(500)),
    "comments": "<!-- " * 20_000,
    "autolinks": "<a:" * 40_000,
    "one line": "x" * 131_072,
    "too long": "# a\n\n" * MAX_CHARACTERS,
}


@pytest.mark.parametrize("name", LONG)
def test_long_and_deep_cards_stay_pages(name):
    shown = rendered(LONG[name], "/a/b/blob/sha", "/a/b/resolve/sha")
    assert len(shown) < max(24 << 20, 5 * len(LONG[name]))
    assert shown.startswith("<pre>") == is_costly(LONG[name])


def test_big_files_and_long_lists_are_cut(shelf, look):
    shelf.store.create_repo("model", "alice/big")
    files = {f"many/{n:04}.txt": b"x" for n in range(250)} | {
        "long.txt": b"y" * (3 << 20),
        "README.md": b"z" * (3 << 20),
    }
    shelf.store.commit("model", "alice/big", files, message="Add", author="alice")
    first, second = look("/alice/big/tree/main/many"), look("/alice/big/tree/main/many?cursor=200")
    assert ("0199.txt" in first.text, "0200.txt" in first.text, "0249.txt" in second.text) == (True, False, True)
    assert 'href="?cursor=200"' in first.text and 'rel="next"' not in second.text
    text = look("/alice/big/blob/main/long.txt").text
    assert "Only its beginning" in text and len(text) < 300_000
    assert "no card" in look("/alice/big").text
    assert look("/alice/big/tree/main?cursor=x").status_code == look("/alice/big/blob/main").status_code == 400
