"""Three pages."""

from django.contrib import admin
from django.urls import path

from shop import views

urlpatterns = [
    path("signup", views.sign_up),
    path("order", views.order),
    path("admin/", admin.site.urls),
]
