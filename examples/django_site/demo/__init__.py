"""A small Django site that uses what an interface server must carry: forms, uploads, streams, sessions, WebSockets.

    pip install "django>=5.2" "channels>=4.3"
    ifserver run demo.asgi:application --app-dir examples/django_site --resumable "/chat/*"

To change it while it runs, with its chat open::

    DJANGO_SITE_DEBUG=1 python examples/django_site/manage.py runserver

Nothing needs to be set up: the first start makes the secret key, the database and the superuser ``admin``, whose
password is ``admin``. These variables change the defaults:

==============================  ========================================================================================
``DJANGO_SITE_DATA``            where the key, the database and the uploads are kept; ``data/`` beside ``manage.py``
``DJANGO_SITE_DEBUG``           ``1`` shows Django's own error pages
``DJANGO_SITE_HOSTS``           the host names that the site answers to, with commas; ``localhost,127.0.0.1,[::1]``
``DJANGO_SITE_ORIGINS``         origins that may post forms if a proxy changes the Host header, with commas; none
``DJANGO_SITE_ADMIN_PASSWORD``  the superuser's first password; set it before anybody but you can reach the site
==============================  ========================================================================================
"""
