"""Mail from templates of Django's engine: NAME_subject.txt, NAME.txt and NAME.html.

What is no HTML isn't escaped: in a subject or a text, O'Brien stays O'Brien.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from django.core.mail import EmailMultiAlternatives
from django.template import Template, TemplateDoesNotExist
from django.template.context import make_context
from django.template.loader import get_template
from django.utils import translation

from mailtasks.contrib.django.messages import FIELDS


def send_template(
    name: str,
    *,
    to: str | Sequence[str],
    context: Mapping[str, Any] | None = None,
    language: str | None = None,
    using: str | None = None,
    fail_silently: bool = False,
    **fields: Any,
) -> Any:
    """Render a message and send it with the default mailer.

    Args:
        using: another mailer's alias (Django 6.1).
        fail_silently: as Django's `send()` has it.
        **fields: as `template_message` takes them.

    Returns:
        The message; its `mailtasks_ids` are set once it was handed over.

    Raises:
        As `template_message`, and what the mailer's `send()` raises.
    """
    message = template_message(name, to=to, context=context, language=language, **fields)
    options: dict[str, Any] = {"using": using} if using is not None else {}
    if fail_silently:
        options["fail_silently"] = True
    message.send(**options)
    return message


def template_message(
    name: str,
    *,
    to: str | Sequence[str],
    context: Mapping[str, Any] | None = None,
    language: str | None = None,
    **fields: Any,
) -> Any:
    """A message, rendered and not yet sent, to which more may be attached.

    Args:
        name: of the templates, such as "shop/welcome", without an ending.
        context: what they see.
        language: the recipient's, such as "de"; None: that of the moment.
        **fields: what Django's `EmailMultiAlternatives` takes besides (`from_email`, `cc`, `attachments`, …),
            and what a message of ours does (`priority`, `tags`, …).

    Raises:
        TemplateDoesNotExist: there is no subject, or neither text nor HTML.
        TypeError: a mail has no such field.
    """
    with translation.override(language) if language else nullcontext():
        subject = " ".join(_rendered(get_template(f"{name}_subject.txt"), context, escape=False).split())
        text = _rendered(_found(f"{name}.txt"), context, escape=False)
        html = _rendered(_found(f"{name}.html"), context, escape=True)
    if text is None and html is None:
        raise TemplateDoesNotExist(f"{name}.txt or {name}.html")
    taken = {field: fields.pop(field) for field in _DJANGOS if field in fields}
    recipients = [to] if isinstance(to, str) else to
    message = EmailMultiAlternatives(
        subject=subject, body=html if text is None else text, to=recipients, **taken
    )
    if text is None:
        message.content_subtype = "html"
    elif html is not None:
        message.attach_alternative(html, "text/html")
    for field, value in fields.items():
        if field not in FIELDS:
            raise TypeError(f"a mail has no field {field!r}; known are {', '.join((*_DJANGOS, *FIELDS))}")
        setattr(message, field, value)
    return message


_DJANGOS = ("from_email", "cc", "bcc", "reply_to", "headers", "attachments", "alternatives", "connection")


def _found(name: str) -> Any:
    """The template; None, if there is none."""
    try:
        return get_template(name)
    except TemplateDoesNotExist:
        return None


def _rendered(template: Any, context: Mapping[str, Any] | None, *, escape: bool) -> Any:
    if template is None:
        return None
    own = getattr(template, "template", None)
    if escape or not isinstance(own, Template):
        return template.render(dict(context or {}))
    return own.render(make_context(dict(context or {}), autoescape=False))
