"""A Django site in one file, run as WSGI, and instrumented as its own ``wsgi.py`` would do it."""

from __future__ import annotations

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from opentelemetry.instrumentation.django import DjangoInstrumentor


def hello(request: HttpRequest, name: str) -> HttpResponse:
    return HttpResponse(f"hello {name}")


urlpatterns = [path("hello/<str:name>", hello)]
settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="for tests only", MIDDLEWARE=[])
# It looks here first, and without it would configure the settings itself.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django.conf.global_settings")
DjangoInstrumentor().instrument()
app = get_wsgi_application()
