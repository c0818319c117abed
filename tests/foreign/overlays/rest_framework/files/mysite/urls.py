from django.contrib import admin
from django.urls import include, path
from rest_framework import routers
from snippets import views

router = routers.DefaultRouter()
router.register("snippets", views.SnippetViewSet)
router.register("users", views.UserViewSet)
router.register("groups", views.GroupViewSet)

urlpatterns = [
    path("admin/", admin.site.urls),
    path("upload/<str:name>", views.UploadView.as_view()),
    path("throttled/", views.ThrottledView.as_view()),
    path("api-auth/", include("rest_framework.urls", namespace="rest_framework")),
    path("", include(router.urls)),
]
