INSTALLED_APPS += ["items", "ninja"]
