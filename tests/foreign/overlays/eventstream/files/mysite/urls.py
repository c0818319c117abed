import django_eventstream
from django.contrib import admin
from django.urls import include, path
from notices import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("say/", views.say),
    path("events/", include(django_eventstream.urls), {"channels": ["notices"]}),
]
