import json

from websockets.sync.client import connect

from ifserver.django import ChannelsLiveServerTestCase


class SubscriptionTests(ChannelsLiveServerTestCase):
    def test_a_subscription(self):
        url = f"{self.live_server_ws_url}/graphql/"
        with connect(url, subprotocols=["graphql-transport-ws"]) as client:
            client.send(json.dumps({"type": "connection_init"}))
            self.assertEqual(json.loads(client.recv(60))["type"], "connection_ack")
            query = {"query": "subscription { count(target: 1) }"}
            client.send(json.dumps({"id": "1", "type": "subscribe", "payload": query}))
            self.assertEqual(json.loads(client.recv(60))["payload"]["data"], {"count": 0})
