"""A sign-up with a code, and an order that is confirmed."""

import secrets
from datetime import timedelta

from django import forms
from django.core.mail import EmailMessage
from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import render
from django.utils.translation import get_language

from mailtasks.contrib.django import send_template
from mailtasks.errors import StoreUnavailable
from shop.models import Order, Subscriber


class SignUp(forms.Form):
    """Who signs up."""

    email = forms.EmailField()


class NewOrder(forms.Form):
    """What is ordered; nobody has an elephant."""

    email = forms.EmailField()
    item = forms.CharField(max_length=100)


def sign_up(request):
    """Send a code that is of use for ten minutes, in the browser's language."""
    form = SignUp(request.POST or None)
    if not form.is_valid():
        return render(request, "shop/form.html", {"form": form})
    code = f"{secrets.randbelow(1_000_000):06}"
    email, language = form.cleaned_data["email"], get_language()
    Subscriber.objects.update_or_create(email=email, defaults={"language": language, "code": code})
    try:
        send_template(
            "shop/code",
            to=email,
            context={"code": code},
            language=language,
            priority="urgent",
            expires_after=timedelta(minutes=10),
        )
    except StoreUnavailable:
        return HttpResponse("We can't send mail now; please try again later.", status=503)
    return HttpResponse("We have sent you a code.")


@transaction.atomic
def order(request):
    """Confirm an order if it is committed, and only then."""
    form = NewOrder(request.POST or None)
    if not form.is_valid():
        return render(request, "shop/form.html", {"form": form})
    ordered = Order.objects.create(**form.cleaned_data)
    mail = EmailMessage(f"Your order {ordered.pk}", f"Thank you for {ordered.item}.\n", to=[ordered.email])
    mail.metadata = {"order": str(ordered.pk)}
    mail.send()
    ordered.mail = "".join(getattr(mail, "mailtasks_ids", ()))  # Django's test runner sends no mail
    ordered.save()
    if ordered.item == "elephant":
        transaction.set_rollback(True)
        return HttpResponse("We have no elephant.", status=409)
    return HttpResponse(ordered.mail)
