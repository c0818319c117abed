import time

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Say numbers in a room."

    def add_arguments(self, parser):
        parser.add_argument("room")
        parser.add_argument("count", type=int)
        parser.add_argument("--pause", type=float, default=0.0)
        parser.add_argument("--written", action="store_true")

    def handle(self, *args, **options):
        send = async_to_sync(get_channel_layer().group_send)
        for number in range(options["count"]):
            message = {"type": "chat.message", "message": number}
            if options["written"]:
                message = {"type": "websocket.send", "text": str(number)}
            send(f"chat_{options['room']}", message)
            time.sleep(options["pause"])
        self.stdout.write("announced")
