import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
if __name__ == "__main__":
    # Python 3.14 imports this in each process of parallel tests.
    execute_from_command_line(sys.argv)
