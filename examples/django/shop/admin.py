"""A newsletter to the subscribers that are ticked."""

from django.conf import settings
from django.contrib import admin
from django.core import mail
from django.core.mail import EmailMessage

from shop.models import Order, Subscriber

admin.site.register(Order)


@admin.register(Subscriber)
class SubscriberAdmin(admin.ModelAdmin):
    """Subscribers, and what can be done for them."""

    list_display = ("email", "language")
    actions = ("send_newsletter",)

    @admin.action(description="Send the newsletter")
    def send_newsletter(self, request, chosen):
        """One mail each, accepted in few batches."""
        mails = [EmailMessage("News", "There is cake.\n", to=[one.email]) for one in chosen]
        sent = newsletter_mailer().send_messages(mails)
        self.message_user(request, f"{sent} mails are on their way.")


def newsletter_mailer():
    """From Django 6.1 on one of MAILERS, before that a connection with the same options."""
    if hasattr(mail, "mailers"):
        return mail.mailers["newsletter"]
    return mail.get_connection(**settings.NEWSLETTER)
