"""What the shop knows."""

from django.db import models


class Subscriber(models.Model):
    """Who signed up."""

    email = models.EmailField(unique=True)
    language = models.CharField(max_length=10)
    code = models.CharField(max_length=6)

    def __str__(self):
        return self.email


class Order(models.Model):
    """What was ordered, and the mail that confirmed it."""

    email = models.EmailField()
    item = models.CharField(max_length=100)
    mail = models.CharField(max_length=60, blank=True)

    def __str__(self):
        return f"{self.item} for {self.email}"
