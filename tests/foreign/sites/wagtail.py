"""Wagtail, as ``wagtail start`` makes it."""

from __future__ import annotations

import io
import re
import time

from PIL import Image

from tests.e2e.running import eventually
from tests.foreign.clients import UPLOAD, Browser
from tests.foreign.site import Needs, Site
from tests.foreign.ways import Served

__all__ = ["SITE"]

SITE = Site("wagtail", ("wagtail", "start", "mysite", "."), "mysite/settings/dev.py")


@SITE.scenario("home page, admin, static files")
def admin(served: Served) -> None:
    with Browser(served.url) as browser:
        assert "Welcome" in browser.get("/").text
        page = browser.login("/admin/login/")
        assert "Dashboard" in page.text
        sheets = re.findall(r'href="(/static/wagtailadmin/css/core[^"]*\.css)[^"]*"', page.text)
        assert [browser.get(sheet).status_code for sheet in sheets[:1]] == [200]


@SITE.scenario("a page is written, previewed and published")
def publish(served: Served) -> None:
    title = f"News {time.monotonic_ns()}"
    with Browser(served.url) as browser:
        browser.login("/admin/login/")
        edit = re.search(r"/admin/pages/(\d+)/edit/", browser.get("/admin/pages/").text)
        assert edit is not None
        form = {"title": title, "slug": "home", "comments-TOTAL_FORMS": "0", "comments-INITIAL_FORMS": "0"}
        page = browser.get(edit[0])
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token is not None
        form["csrfmiddlewaretoken"] = token[1]
        preview = browser.post(f"/admin/pages/{edit[1]}/edit/preview/", data=form)
        assert preview.json()["is_valid"] is True, preview.text
        shown = browser.get(f"/admin/pages/{edit[1]}/edit/preview/?mode=").text
        assert re.search(rf"<title>\s*{title}", shown) is not None
        done = browser.post(edit[0], data={**form, "action-publish": "action-publish"})
        assert done.status_code == 200
        assert title in browser.get("/").text


@SITE.scenario("an image and its rendition")
def image(served: Served) -> None:
    file = io.BytesIO()
    Image.effect_noise((1200, 900), 80).save(file, "PNG")
    with Browser(served.url) as browser:
        browser.login("/admin/login/")
        title = f"Noise {time.monotonic_ns()}"
        page = browser.fill_in("/admin/images/add/", {"title": title}, {"file": ("noise.png", file.getvalue())})
        assert title in page.text
        rendition = re.search(r'src="(/media/images/[^"]+)"', page.text)
        assert rendition is not None
        if Needs.RUNSERVER in served.way.offers:
            assert browser.get(rendition[1]).headers["content-type"] == "image/png"


@SITE.scenario("a document of 20 MB, there and back")
def document(served: Served) -> None:
    title = f"Numbers {time.monotonic_ns()}"
    with Browser(served.url) as browser:
        browser.login("/admin/login/")
        browser.fill_in("/admin/documents/add/", {"title": title}, {"file": ("numbers.zip", UPLOAD)})
        listed = browser.get("/admin/documents/").text
        found = re.search(r'href="(/documents/\d+/[^"]+)"', listed)
        assert found is not None, listed
        answer = browser.get(found[1])
        assert answer.content == UPLOAD
        assert "attachment" in answer.headers["content-disposition"]


@SITE.scenario("an edit of a template", Needs.RUNSERVER)
def edited(served: Served) -> None:
    end = "{% endblock content %}"
    with Browser(served.url) as browser, served.edited("home/templates/home/home_page.html", end, f"Hello{end}"):
        eventually(lambda: "Hello" in browser.get("/").text, "the new template")
