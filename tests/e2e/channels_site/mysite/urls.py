from chat import views
from django.urls import path

urlpatterns = [
    path("say/<room>/", views.say),
    path("write/<room>/", views.write),
    path("close/<room>/", views.close),
    path("round/<room>/", views.round_trip),
    path("fork/<room>/", views.fork),
    path("asay/<room>/", views.asay),
]
