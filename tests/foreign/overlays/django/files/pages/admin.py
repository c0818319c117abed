from django.contrib import admin

from pages.models import Attachment

admin.site.register(Attachment)
