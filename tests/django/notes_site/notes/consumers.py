from asgiref.sync import async_to_sync
from channels.generic.websocket import JsonWebsocketConsumer

from notes.models import Note


class NotesConsumer(JsonWebsocketConsumer):
    """Tells everybody of each note that anybody sends."""

    groups = ("notes",)

    def receive_json(self, content, **kwargs):
        note = Note.objects.create(text=content["text"])
        message = {"type": "note.added", "text": note.text, "count": Note.objects.count()}
        async_to_sync(self.channel_layer.group_send)("notes", message)

    def note_added(self, event):
        self.send_json({"text": event["text"], "count": event["count"]})
