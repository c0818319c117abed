from django.contrib.auth.models import User
from requests.adapters import HTTPAdapter
from rest_framework.test import RequestsClient

from ifserver.django import LiveServerTestCase
from snippets.models import Snippet


class SnippetTests(LiveServerTestCase):
    def test_requests_over_sockets(self):
        user = User.objects.create_user("grace", password="x")
        client = RequestsClient()
        # Its own way to the application has no sockets.
        client.mount("http://", HTTPAdapter())
        client.auth = ("grace", "x")
        answer = client.post(f"{self.live_server_url}/snippets/", json={"code": "1 + 1"}, timeout=60)
        self.assertEqual(answer.status_code, 201)
        self.assertEqual(Snippet.objects.get().owner, user)
