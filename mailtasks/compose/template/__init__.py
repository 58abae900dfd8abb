"""Templates: one description of a mail, and a mail of each recipient's own.

Read them as a template travels: `record` (what the user describes, and what is sent to a worker), `sources`
(files and what they include), `checks` (what is wrong, with file and line), `html_text` and `css` (the text
of the HTML, styles inlined; `markup` keeps Jinja2's constructs through both), `sandbox` (where it runs;
`budget` and `growth` hold its limits), `roads` (to an encoded body), `unsubscribe` (the URL that makes two
headers) and `compiled` (to the whole message).
"""

from mailtasks.compose.template.budget import Limits
from mailtasks.compose.template.compiled import CompiledTemplate, Rendered
from mailtasks.compose.template.record import Template, TemplateRecord

__all__ = ["CompiledTemplate", "Limits", "Rendered", "Template", "TemplateRecord"]
