# Django's own admin, and what many sites have installed beside it.
import sentry_sdk
from pages.reports import FileTransport

INSTALLED_APPS = ["whitenoise.runserver_nostatic", *INSTALLED_APPS, "django_htmx", "debug_toolbar", "pages"]
MIDDLEWARE += ["django_htmx.middleware.HtmxMiddleware", "debug_toolbar.middleware.DebugToolbarMiddleware"]
INTERNAL_IPS = ["127.0.0.1"]
sentry_sdk.init(
    dsn="http://key@127.0.0.1:9/1",
    transport=FileTransport(BASE_DIR / "reports.jsonl"),
    send_default_pii=True,
    traces_sample_rate=1.0,
)
