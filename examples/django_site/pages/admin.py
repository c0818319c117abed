from django.contrib import admin

from pages.models import ChatMessage, Entry, Upload


@admin.register(Entry)
class EntryAdmin(admin.ModelAdmin):
    list_display = ("author", "text", "written_at")
    search_fields = ("author", "text")


@admin.register(ChatMessage)
class ChatMessageAdmin(admin.ModelAdmin):
    list_display = ("name", "text", "sent_at")
    search_fields = ("name", "text")


@admin.register(Upload)
class UploadAdmin(admin.ModelAdmin):
    list_display = ("name", "size_bytes", "sha256", "sent_at")
    readonly_fields = ("file", "name", "size_bytes", "sha256", "sent_at")
