from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from pages import views

urlpatterns = [
    path("", views.home, name="home"),
    path("accounts/login/", LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("accounts/logout/", LogoutView.as_view(), name="logout"),
    path("guestbook/", views.guestbook, name="guestbook"),
    path("upload/", views.upload, name="upload"),
    path("upload/<int:upload_id>/", views.upload, name="uploaded"),
    path("stream/", views.stream, name="stream"),
    path("clock/", views.clock, name="clock"),
    path("clock/events/", views.clock_events, name="clock_events"),
    path("chat/", views.chat, name="chat"),
    path("favicon.ico", views.favicon, name="favicon"),
]
