"""Nothing that others wrote leaves its place in Markdown."""

from hubinit.text import code, escape, fence, one_line


def test_escaping():
    assert escape("acc_norm _x_ `c` <b> a|b [l](u) *s*") == r"acc_norm \_x\_ \`c\` &lt;b&gt; a\|b \[l\](u) \*s\*"
    assert code("a`b\nc") == "`a'b c`"
    assert fence("x\n```\ny").startswith("````\n")


def test_one_line_has_no_control_characters():
    assert one_line("a\n\x1b[31mb\u2028c ") == "a [31mb c"
