"""A WSGI application, which is what many Django sites still are, behind the same command."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.e2e.running import EXAMPLES, Running


def test_the_django_example_by_its_wsgi_entry(tmp_path: Path) -> None:
    site = {"DJANGO_SITE_DATA": str(tmp_path)}
    command = ("run", "demo.wsgi:application", "-p", "0", "--workers", "1", "--threads", "4")
    with Running(*command, app_dir=EXAMPLES / "django_site", environment=site) as server, httpx.Client() as client:
        server.ready()
        page = client.get(f"{server.url}/guestbook/", timeout=20)
        assert page.status_code == 200
        entry = {"name": "Grace", "text": "by WSGI", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
        answer = client.post(f"{server.url}/guestbook/", data=entry, timeout=20, follow_redirects=True)
        assert answer.status_code == 200
        assert "by WSGI" in answer.text
