"""Serves the pages with Gradio: one HTML component, whose script asks two functions."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from hubinit.leaderboard.app import pages
from hubinit.leaderboard.app.data import Data

HERE = Path(__file__).parent
SHELL = """<div class="hubinit-root"><p class="unseen" role="status" aria-live="polite">Loading …</p>
<div class="hubinit" aria-busy="true"><h1>hubinit leaderboard</h1><p>Loading …</p></div></div>"""
FONTS = ("system-ui", "sans-serif")
LOCAL = "127.0.0.1"


def build_app(data: Data) -> gr.Blocks:
    """The app on a leaderboard, to be launched."""

    def read_page(query: str) -> dict[str, Any]:
        return asdict(pages.page(data, query))

    def read_csv(query: str) -> str:
        return pages.csv(data, query)

    # Gradio makes attributes of its component of them, so they have names that it does not use.
    asked: list[Callable[..., Any]] = [read_page, read_csv]
    with gr.Blocks(title="hubinit leaderboard", analytics_enabled=False, fill_width=True) as app:
        gr.HTML(
            html_template=SHELL,
            js_on_load=(HERE / "page.js").read_text("utf-8"),
            server_functions=asked,
            apply_default_css=False,
        )
    return app


def launch(data: Data, *, host: str = LOCAL, port: int | None = None) -> tuple[gr.Blocks, str]:
    """Serves a leaderboard from another thread; see `wait`.

    Args:
        data: what is shown.
        host: address to listen on. Default: this machine only.
        port: None: Gradio's first free one from 7860 on.

    Returns:
        The app and its address.
    """
    app = build_app(data)
    _, url, _ = app.launch(
        server_name=host,
        server_port=port,
        head=f"<style>{(HERE / 'style.css').read_text('utf-8')}</style>",  # `css` is rewritten, wrongly where it has `:is`
        theme=gr.themes.Default(font=FONTS, font_mono="monospace"),  # none is fetched from elsewhere
        footer_links=[],
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    return app, url


def wait(app: gr.Blocks) -> None:
    """Waits until the user stops the app."""
    app.block_thread()
