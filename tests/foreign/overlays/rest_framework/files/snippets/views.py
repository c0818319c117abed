import hashlib

from django.contrib.auth.models import Group, User
from rest_framework import permissions, renderers, viewsets
from rest_framework.decorators import action
from rest_framework.parsers import FileUploadParser, MultiPartParser
from rest_framework.response import Response
from rest_framework.throttling import UserRateThrottle
from rest_framework.views import APIView

from snippets.models import Snippet
from snippets.serializers import GroupSerializer, SnippetSerializer, UserSerializer


class SnippetViewSet(viewsets.ModelViewSet):
    queryset = Snippet.objects.all()
    serializer_class = SnippetSerializer
    permission_classes = (permissions.IsAuthenticatedOrReadOnly,)
    filterset_fields = ("language",)

    @action(detail=True, renderer_classes=[renderers.StaticHTMLRenderer])
    def highlight(self, request, *args, **kwargs):
        return Response(self.get_object().highlighted)

    def perform_create(self, serializer):
        serializer.save(owner=self.request.user)


class UserViewSet(viewsets.ModelViewSet):
    queryset = User.objects.all().order_by("-date_joined")
    serializer_class = UserSerializer
    permission_classes = (permissions.IsAuthenticated,)


class GroupViewSet(viewsets.ModelViewSet):
    queryset = Group.objects.all().order_by("name")
    serializer_class = GroupSerializer
    permission_classes = (permissions.IsAuthenticated,)


class UploadView(APIView):
    parser_classes = (MultiPartParser, FileUploadParser)
    permission_classes = (permissions.IsAuthenticated,)

    def put(self, request, name):
        file = request.data["file"]
        digest = hashlib.sha256(b"".join(file.chunks())).hexdigest()
        return Response({"name": name, "size": file.size, "sha256": digest})


class SlowRateThrottle(UserRateThrottle):
    scope = "slow"


class ThrottledView(APIView):
    throttle_classes = (SlowRateThrottle,)
    permission_classes = (permissions.IsAuthenticated,)

    def get(self, request):
        return Response({"version": 1})
