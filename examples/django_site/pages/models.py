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
