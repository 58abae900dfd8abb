"""The outbox's table."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):  # type: ignore[misc]  # Django ships no types
    """Made by `makemigrations`, and laid out by us; a test compares it with the model."""

    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="OutboxRow",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False, verbose_name="row")),
                (
                    "batch",
                    models.CharField(help_text="A message's id is this, a dot and a number.", max_length=32),
                ),
                ("content", models.BinaryField()),
                ("size", models.IntegerField(verbose_name="size in bytes")),
                (
                    "keep",
                    models.CharField(
                        choices=[
                            ("until_accepted", "Until handed over"),
                            ("until_final", "Until final"),
                            ("forever", "Forever"),
                        ],
                        max_length=16,
                        verbose_name="kept",
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "Waiting"),
                            ("accepted", "Handed over"),
                            ("final", "Handed over, final"),
                            ("aside", "Failed"),
                        ],
                        max_length=16,
                    ),
                ),
                ("written_at", models.DateTimeField(verbose_name="written")),
                ("accepted_at", models.DateTimeField(null=True, verbose_name="handed over")),
                ("seen_at", models.DateTimeField(null=True, verbose_name="last seen")),
                ("look_at", models.DateTimeField(null=True, verbose_name="next look")),
                ("final_at", models.DateTimeField(null=True, verbose_name="final")),
                ("outcome", models.JSONField(null=True)),
                ("error", models.TextField(null=True)),
            ],
            options={
                "verbose_name": "outbox row",
                "verbose_name_plural": "outbox rows",
                "db_table": "mailtasks_outbox",
                "permissions": (
                    ("retry_outboxrow", "Can let failed mail be tried again"),
                    ("view_content", "Can read what mail in the outbox says"),
                ),
                "default_permissions": ("view", "delete"),
                "indexes": [models.Index(fields=["state", "look_at", "id"], name="ix_mailtasks_outbox_due")],
            },
        ),
    )
