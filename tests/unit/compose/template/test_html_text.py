from __future__ import annotations

import jinja2
import pytest

from mailtasks.compose.template.html_text import text_of, text_template


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One\n  two</p><p>three</p>", "One two\n\nthree"),
        ("<h1>Title</h1>text<h3>Sub</h3><p>more", "# Title\n\ntext\n### Sub\n\nmore"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>after", "- a\n- b\n  - c\n\nafter"),
        ("<ul><li>a<li>b</ul>", "- a\n- b"),
        ("<ol><li>a</li><li>b</li></ol>", "1. a\n2. b"),
        ("<a href='https://x.example/?a=1&amp;b=2'>here</a>", "here <https://x.example/?a=1&b=2>"),
        ("<a href='https://x.example'>https://x.example</a>", "https://x.example"),
        ("<a href='mailto:a@b.example'>a@b.example</a>", "a@b.example"),
        ("<a href='#top'>up</a> <a name=x>anchor</a></a>", "up anchor"),
        ("<a href='https://x.example'><img src=x alt='Logo'></a>", "Logo <https://x.example>"),
        ("<a href='https://x.example'><img src=x></a>", "<https://x.example>"),
        ("<table><tr><td>a</td> <td>b</td></tr><tr><th>c<td>d</table>e", "a | b\nc | d\n\ne"),
        ("a<hr>b", f"a\n{'-' * 40}\nb"),
        ("<pre>a\n  b</pre>c", "a\n  b\n\nc"),
        ("&lt;b&gt; &amp; &nbsp;&eacute;", "<b> & \xa0é"),
        ("<head><title>x</title></head><style>y</style><script>z</script><!-- no -->seen", "seen"),
        ("a <b> b </b> c", "a b c"),
        ("", ""),
    ],
)
def test_a_text_is_what_a_reader_sees(html, text):
    assert text_of(html) == text


@pytest.mark.parametrize(
    ("html", "template"),
    [
        ("<p>Hi {{ name }},</p>\n<p>x", "Hi {{ name }},\n\nx"),
        (
            "<ul>{% for i in items %}\n  <li>{{ i }}</li>\n{% endfor %}</ul>end",
            "{% for i in items %}- {{ i }}\n{% endfor %}\nend",
        ),
        (
            "<ul>{% for i in items -%} <li>{{ i }} {%- endfor %}</ul>",
            "{% for i in items %}- {{ i }}\n{% endfor %}\n",
        ),
        (
            "<ol>{% for i in items %}<li>{{ i }}</li>{% endfor %}</ol>",
            "{% for i in items %}- {{ i }}\n{% endfor %}\n",
        ),
        ('<a href="{{ url }}?x={{ y }}">go</a>', "go <{{ url }}?x={{ y }}>"),
        ("<p class='{% if x %}a{% endif %}'>t", "t"),
        (
            "<head>{% set a = 1 %}<style>{{ b }}{% block c %}{% endblock %}</style></head>{{ a }}",
            "{% set a = 1 %}{{ a }}",
        ),
        ("&#123;{ name }}", "{{ '{' }}{ name }}"),
        ("{% raw %}{{ name }}{% endraw %}", "{{ '{' }}{ name }}"),
        ("<td>{{ a }}</td><td>{{ b }}</td>", "{{ a }} | {{ b }}"),
        ("<img alt='{{ name }}'>", "{{ name }}"),
    ],
)
def test_constructs_stay_where_they_mean_the_same(html, template):
    assert text_template(html) == template


def test_a_loop_writes_a_line_for_each_turn():
    html = "<p>Yours:</p><ul>{% for i in items %}<li>{{ i }}{% endfor %}</ul><p>Bye</p>"
    text = jinja2.Template(text_template(html)).render(items=["a", "b"])
    assert text == "Yours:\n\n- a\n- b\n\nBye\n"
