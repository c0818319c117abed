import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
django_application = get_asgi_application()

# Behind Django's own: it imports models.
from chat.schema import schema  # noqa: E402
from strawberry import subscriptions  # noqa: E402
from strawberry.channels import GraphQLProtocolTypeRouter  # noqa: E402

application = GraphQLProtocolTypeRouter(
    schema,
    django_application=django_application,
    subscription_protocols=(
        subscriptions.GRAPHQL_TRANSPORT_WS_PROTOCOL,
        subscriptions.GRAPHQL_WS_PROTOCOL,
        subscriptions.GRAPHQL_SSE_PROTOCOL,
    ),
)
