from django.conf import settings
from django.core.mail import send_mail
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from notes.models import Note


@csrf_exempt
def index(request: HttpRequest) -> JsonResponse:
    if request.method == "POST":
        Note.objects.create(text=request.body.decode())
    return JsonResponse({"notes": [note.text for note in Note.objects.order_by("pk")]})


def greeting(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{settings.GREETING} {request.scheme} {'asgi' if hasattr(request, 'scope') else 'wsgi'}")


def mail(request: HttpRequest) -> HttpResponse:
    send_mail("subject", "text", "from@example.com", ["to@example.com"])
    return HttpResponse(settings.EMAIL_BACKEND)


def archive(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(Note.objects.using("archive").count()))


def broken(request: HttpRequest) -> HttpResponse:
    raise LookupError("what the view raises")
