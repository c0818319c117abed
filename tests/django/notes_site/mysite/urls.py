from django.urls import path
from notes import views

urlpatterns = [path("", views.index), path("greeting/", views.greeting), path("mail/", views.mail)]
urlpatterns += [path("archive/", views.archive), path("broken/", views.broken)]
