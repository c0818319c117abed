from django.core.management.base import BaseCommand
from django_eventstream import send_event


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("text")

    def handle(self, **options):
        send_event("notices", "message", {"text": options["text"]})
