from chat.schema import schema
from django.contrib import admin
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from strawberry.django.views import GraphQLView

urlpatterns = [
    path("admin/", admin.site.urls),
    # What the consumers answer at /graphql, for WSGI: with the threads of Django.
    path("sync/graphql/", csrf_exempt(GraphQLView.as_view(schema=schema))),
]
