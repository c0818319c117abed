import urllib.request

from django.contrib.auth.models import User

from ifserver.django import LiveServerTestCase
from pages.models import Attachment


class PagesTests(LiveServerTestCase):
    serialized_rollback = True

    def get(self, path):
        with urllib.request.urlopen(self.live_server_url + path, timeout=60) as response:
            return response.read().decode()

    def test_a_page_has_what_the_test_has_saved(self):
        Attachment.objects.create(name="one")
        User.objects.create_user("grace")
        self.assertIn("1 attachments", self.get("/"))
        self.server.kill_worker()
        self.assertIn("1 attachments", self.get("/"))

    def test_static_files(self):
        self.assertIn("navy", self.get("/static/pages/style.css"))
