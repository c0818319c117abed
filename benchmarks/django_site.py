"""A plain Django site in one file, with the middleware of ``startproject``: a JSON view, and a page from a template
with three queries. It is served by WSGI (`application`) and by ASGI (`asgi_application`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import engines
from django.urls import path

__all__ = ["DATABASE", "application", "asgi_application", "make_database"]

#: The variable that names the file of the database.
DATABASE = "BENCHMARK_DATABASE"
_MIDDLEWARE = (
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
)
_PAGE = """<!doctype html><html lang="en"><head><title>{{ title }}</title></head><body>
<h1>{{ title }}</h1><p>{{ count }} users, the newest is {{ newest.username }}.</p>
<table>{% for user in users %}<tr class="{% cycle 'odd' 'even' %}"><td>{{ user.username }}</td>
<td>{{ user.email|default:"-" }}</td><td>{{ user.date_joined|date:"Y-m-d H:i" }}</td></tr>{% endfor %}</table>
</body></html>"""


def make_database() -> None:
    """Create the tables, and twenty users."""
    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    User.objects.bulk_create(User(username=f"user{i}", email=f"user{i}@example.com") for i in range(20))


def _json(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"message": "Hello, world!", "numbers": [1, 2, 3]})


def _page(request: HttpRequest) -> HttpResponse:
    from django.contrib.auth.models import User

    context: dict[str, Any] = {
        "title": "Users",
        "count": User.objects.count(),
        "newest": User.objects.order_by("-id").first(),
        "users": User.objects.order_by("username")[:10],
    }
    return HttpResponse(_template().render(context, request))


def _template() -> Any:
    global _compiled
    if _compiled is None:
        _compiled = engines["django"].from_string(_PAGE)
    return _compiled


_compiled: Any = None
urlpatterns = [path("", _json), path("json", _json), path("page", _page)]

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get(DATABASE) or str(Path(__file__).with_name("benchmark.sqlite3")),
        }
    },
    INSTALLED_APPS=[
        f"django.contrib.{name}" for name in ("auth", "contenttypes", "sessions", "messages", "staticfiles")
    ],
    MIDDLEWARE=_MIDDLEWARE,
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for benchmarks",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    USE_TZ=True,
)
django.setup()
application = get_wsgi_application()
asgi_application = get_asgi_application()

if __name__ == "__main__":
    make_database()
    connection.close()
