from debug_toolbar.toolbar import debug_toolbar_urls
from django.conf import settings
from django.conf.urls.static import static
from django.contrib import admin
from django.urls import path
from pages import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", views.home),
    path("pause/", views.pause),
    path("download/<str:name>/", views.download),
    path("fails/", views.fails),
    path("fails-async/", views.fails_async),
    path("events/", views.events),
    path("lines/", views.lines),
    *debug_toolbar_urls(),
    *static(settings.MEDIA_URL, document_root=settings.MEDIA_ROOT),
]
