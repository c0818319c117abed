import secrets
from typing import Any

from django.db import models


class Entry(models.Model):
    """One entry in the guestbook."""

    author = models.CharField(max_length=150)
    text = models.TextField(max_length=1000)
    written_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "entries"

    def __str__(self) -> str:
        return f"{self.author}: {self.text[:40]}"


class ChatMessage(models.Model):
    """What somebody has said in the chat."""

    sent_at = models.DateTimeField(auto_now_add=True)
    name = models.CharField(max_length=40)
    text = models.TextField(max_length=2000)
    key = models.CharField(max_length=64, unique=True, default=secrets.token_hex)  # the page knows its messages by it

    def __str__(self) -> str:
        return f"{self.name}: {self.text[:40]}"

    def as_dict(self) -> dict[str, Any]:
        """What the page is told."""
        sent_at = self.sent_at.timestamp()
        return {"id": self.pk, "sent_at": sent_at, "name": self.name, "text": self.text, "key": self.key}


class Upload(models.Model):
    """A file that somebody sent, and what arrived."""

    file = models.FileField(upload_to="%Y/%m")
    name = models.CharField(max_length=255)
    size_bytes = models.PositiveBigIntegerField()
    sha256 = models.CharField(max_length=64)
    sent_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.name}, {self.size_bytes} bytes"
