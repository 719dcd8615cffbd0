"""The leaderboard as a web page that Gradio serves: `server` ─► `pages` ─► `data`, `figures` and the templates.

The query string of the address is the whole state of a page, so every view is a permalink. A page is a function of the query and
the data; Gradio carries the query there and the page back (`page.js`). Without torch: a Space needs gradio and matplotlib only.
"""
