"""Django's settings; what concerns mail comes first."""

import os

import django

BACKEND = "mailtasks.contrib.django.backend.EmailBackend"
NEWSLETTER = {"priority": "bulk", "tags": ["newsletter"]}
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": BACKEND}, "newsletter": {"BACKEND": BACKEND, "OPTIONS": NEWSLETTER}}
else:
    EMAIL_BACKEND = BACKEND
DEFAULT_FROM_EMAIL = "The Shop <shop@example.com>"
MAILTASKS = {"REDIS_TIMEOUT": 2, "REDIS_CONNECT_TIMEOUT": 1}  # nobody waits for longer; broker and relay are
# named by the environment: MAILTASKS_BROKER_URL, MAILTASKS_RELAY

DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("SHOP_DATABASE", "shop.db")}
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "shop",
    "mailtasks.contrib.django",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "shop.urls"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
STATIC_URL = "static/"
USE_TZ = True
DEBUG = True  # `runserver` gives the admin its styles only then
SECRET_KEY = "for this example only"
